//! Rules for the names of jobs, queues, ids and headers, for programs that check them before a publish.
//!
//! Each function returns the rule that a name breaks.
//!
//! ```
//! use leveret::names;
//!
//! assert!(names::queue("email").is_ok());
//! assert_eq!(names::job("Send Email"), Err("it must be of the form [a-z0-9_.-]{1,128}"));
//! ```

/// Checks a job's name: `[a-z0-9_.-]{1,128}`.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::job("email.send").is_ok());
/// ```
pub fn job(name: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    let holds = (1..=128).contains(&name.len()) && name.bytes().all(allowed);
    rule(holds, "it must be of the form [a-z0-9_.-]{1,128}")
}

/// Checks a queue's name: 1 to 255 bytes without control characters.
///
/// RabbitMQ removes line breaks from the name of a queue that it declares and keeps them in routing keys. A job for such a
/// name would reach no consumer.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::queue("email\n").is_err());
/// ```
pub fn queue(name: &str) -> Result<(), &'static str> {
    let holds = is_short(name) && !name.chars().any(char::is_control);
    rule(holds, "it must have 1 to 255 bytes and no control characters")
}

/// Checks a job's id: 1 to 255 bytes.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::id("order-17").is_ok());
/// ```
pub fn id(id: &str) -> Result<(), &'static str> {
    rule(is_short(id), "it must have 1 to 255 bytes")
}

/// Checks the name of a publisher's own header.
///
/// Headers that start with `leveret-` or `x-` belong to Leveret and to the broker. RabbitMQ reads `CC` and `BCC` as
/// lists of further routing keys. If their value is not a list, RabbitMQ closes the channel with all its publishes.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::header("tenant").is_ok());
/// assert!(leveret::names::header("CC").is_err());
/// ```
pub fn header(name: &str) -> Result<(), &'static str> {
    let is_own = !name.starts_with("leveret-") && !name.starts_with("x-") && !matches!(name, "CC" | "BCC");
    rule(
        is_short(name) && is_own,
        "its name must have 1 to 255 bytes, not start with leveret- or x-, and not be CC or BCC",
    )
}

fn is_short(text: &str) -> bool {
    (1..=255).contains(&text.len())
}

fn rule(holds: bool, rule: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(rule) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_broker_would_change_or_close_a_channel_for_is_refused() {
        let long = "q".repeat(256);
        for name in ["", "a\nb", "a\r", "a\0", "\u{85}", &long] {
            assert!(queue(name).is_err(), "{name:?}");
        }
        for name in ["", "CC", "BCC", "x-death", "leveret-attempt", &long] {
            assert!(header(name).is_err(), "{name:?}");
        }
        for name in ["cc", "Cc", "tenant", "traceparent", "a\nb", &long[..255]] {
            assert!(header(name).is_ok(), "{name:?}");
        }
        assert!(queue("größe.7").is_ok() && queue(&long[..255]).is_ok());
    }
}
