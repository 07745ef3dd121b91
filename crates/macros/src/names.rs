//! The rules for the names of jobs and queues and for topics, with messages for the compiler.
//!
//! The crate leveret has the same rules for names that only exist at run time. A macro crate cannot depend on it.

/// Returns what is wrong with a job's name and which names are valid.
pub(crate) fn job(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    if (1..=128).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be the name of a job: use 1 to 128 of the characters a-z, 0-9, `_`, `.` and `-`, such as \
         \"email.send\""
    ))
}

/// Returns what is wrong with a queue's name and which names are valid.
pub(crate) fn queue(name: &str) -> Result<(), String> {
    if (1..=255).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be the name of a queue: use 1 to 255 bytes without control characters, such as \"email\""
    ))
}

/// Returns what is wrong with an event's topic and which topics are valid.
pub(crate) fn topic(topic: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(allowed);
    if topic.starts_with("leveret.") {
        return Err(format!("{topic:?} cannot be a topic: those that start with \"leveret.\" belong to Leveret"));
    }
    if (1..=255).contains(&topic.len()) && topic.split('.').all(is_word) {
        return Ok(());
    }
    Err(format!(
        "{topic:?} cannot be a topic: use 1 to 255 bytes in words of a-z, A-Z, 0-9, `_` and `-` that single dots \
         separate, such as \"order.placed\""
    ))
}

#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "a module of another crate, of which two functions are compared here")]
#[path = "../../../src/names.rs"]
mod framework;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derive_accepts_the_names_that_the_framework_accepts() {
        let long = "n".repeat(256);
        let mut names: Vec<String> = (0..=0x2ff).filter_map(char::from_u32).map(String::from).collect();
        names.extend([0, 1, 128, 129, 255, 256].map(|length| long[..length].to_owned()));
        names.extend(
            [
                "email.send",
                "x_1-2.y",
                "größe.7",
                "Email",
                "a b",
                "a/b",
                "a\nb",
                "a..b",
                ".a",
                "a.",
                "order.*",
                "#",
                "leveret.x",
            ]
            .map(str::to_owned),
        );
        for name in names {
            assert_eq!(job(&name).is_ok(), framework::job(&name).is_ok(), "{name:?}");
            assert_eq!(topic(&name).is_ok(), framework::topic(&name).is_ok(), "{name:?}");
            assert_eq!(queue(&name).is_ok(), framework::queue(&name).is_ok(), "{name:?}");
        }
    }
}
