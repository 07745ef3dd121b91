//! Rules for the names of jobs, queues, events, ids and headers, for programs that check them before a publish.
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

/// Checks the topic of an event: 1 to 255 bytes, in words of `a-z`, `A-Z`, `0-9`, `_` and `-` that single dots separate.
///
/// Topics that start with `leveret.` belong to Leveret. `*` and `#` stand in [patterns](pattern) only.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::topic("order.placed").is_ok());
/// assert!(leveret::names::topic("order.*").is_err());
/// ```
pub fn topic(topic: &str) -> Result<(), &'static str> {
    rule(
        is_short(topic) && !topic.starts_with("leveret.") && topic.split('.').all(is_word),
        "it must have 1 to 255 bytes, in words of a-z, A-Z, 0-9, _ and - that single dots separate, and not start with \
         leveret.",
    )
}

/// Checks a pattern for topics: as a [`topic`], with `*` in place of one word and `#` in place of any number of
/// words.
///
/// RabbitMQ takes a `*` or `#` inside a longer word for a letter, so that `order*` would match nothing.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::pattern("order.*").is_ok());
/// assert!(leveret::names::pattern("order*").is_err());
/// ```
pub fn pattern(pattern: &str) -> Result<(), &'static str> {
    let is_part = |word: &str| matches!(word, "*" | "#") || is_word(word);
    rule(
        is_short(pattern) && !pattern.starts_with("leveret.") && pattern.split('.').all(is_part),
        "it must have 1 to 255 bytes, in words that single dots separate, each of them * (one word), # (any number of \
         words) or of a-z, A-Z, 0-9, _ and -, and not start with leveret.",
    )
}

/// Checks the name of a subscription: 1 to 126 bytes of a queue's name.
///
/// An event in a subscription is known as `<id>@<subscription>`, which must fit into 255 bytes.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::subscription("warehouse").is_ok());
/// assert!(leveret::names::subscription("leveret.v1.jobs").is_err());
/// ```
pub fn subscription(name: &str) -> Result<(), &'static str> {
    let is_free = !["leveret.", "amq."].iter().any(|reserved| name.starts_with(reserved));
    rule(
        name.len() <= 126 && queue(name).is_ok() && is_free,
        "it must have 1 to 126 bytes and no control characters, and not start with leveret. or amq.",
    )
}

/// Checks the id of an event: 1 to 128 bytes.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::event_id("order-17-placed").is_ok());
/// ```
pub fn event_id(id: &str) -> Result<(), &'static str> {
    rule((1..=128).contains(&id.len()), "it must have 1 to 128 bytes")
}

/// Checks the id of a workflow: 1 to 128 bytes without `/`, `:` and control characters.
///
/// The ids of its jobs begin with it, and a `:` separates it from the name of the step.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::workflow_id("order-17").is_ok());
/// assert!(leveret::names::workflow_id("order:17").is_err());
/// ```
pub fn workflow_id(id: &str) -> Result<(), &'static str> {
    let is_separator = |c: char| matches!(c, '/' | ':') || c.is_control();
    let holds = (1..=128).contains(&id.len()) && !id.contains(is_separator);
    rule(holds, "it must have 1 to 128 bytes, without slashes, colons and control characters")
}

/// Checks the name of a workflow: 1 to 128 of the characters A-Z, a-z, 0-9, `_`, `.` and `-`.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::workflow("order.place").is_ok());
/// ```
pub fn workflow(name: &str) -> Result<(), &'static str> {
    let holds = (1..=128).contains(&name.len()) && name.bytes().all(is_plain);
    rule(holds, "it must be of the form [A-Za-z0-9_.-]{1,128}")
}

/// Checks the name of a workflow's step: 1 to 64 of the characters A-Z, a-z, 0-9, `_`, `.` and `-`.
///
/// # Errors
///
/// The rule.
///
/// ```
/// assert!(leveret::names::step("charge").is_ok());
/// assert!(leveret::names::step("charge/1").is_err());
/// ```
pub fn step(name: &str) -> Result<(), &'static str> {
    let holds = (1..=64).contains(&name.len()) && name.bytes().all(is_plain);
    rule(holds, "it must be of the form [A-Za-z0-9_.-]{1,64}")
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
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
    fn topics_and_patterns_are_words_and_only_patterns_have_wildcards() {
        let (long, longest) = ("t".repeat(256), "t".repeat(255));
        for both in ["order.placed", "a", "com.example.Order-1_x", &longest, "leveret", "leverets.x"] {
            assert!(topic(both).is_ok() && pattern(both).is_ok(), "{both:?}");
        }
        for neither in ["", ".", "a.", ".a", "a..b", "a b", "größe", "a/b", "order*", "#x", "a.**", "leveret.x", &long]
        {
            assert!(topic(neither).is_err() && pattern(neither).is_err(), "{neither:?}");
        }
        for one in ["*", "#", "order.*", "*.placed", "#.placed", "a.#.b", "#.#"] {
            assert!(topic(one).is_err() && pattern(one).is_ok(), "{one:?}");
        }
        for name in ["leveret.v1.jobs", "amq.direct", "", "a\nb", &long[..127]] {
            assert!(subscription(name).is_err(), "{name:?}");
        }
        assert!(
            subscription(&long[..126]).is_ok() && event_id(&long[..128]).is_ok() && event_id(&long[..129]).is_err()
        );
    }

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
