//! Counts equal failures in a row. A failure of many different recipients is not about any of them.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Different recipients with the same failure, without an accepted mail between them, that make a streak.
const LENGTH: usize = 5;

/// The equal failures since the last accepted mail.
#[derive(Debug, Default)]
pub(super) struct FailureStreak {
    key: String,
    /// Hashes of the recipients, at most [`LENGTH`].
    recipients: Vec<u64>,
}

impl FailureStreak {
    /// Counts a failure, and returns whether [`LENGTH`] recipients have had it.
    pub(super) fn add(&mut self, key: String, recipient: &str) -> bool {
        if key != self.key {
            *self = Self { key, recipients: Vec::new() };
        }
        let mut hasher = DefaultHasher::new();
        recipient.hash(&mut hasher);
        let hash = hasher.finish();
        if self.recipients.len() < LENGTH && !self.recipients.contains(&hash) {
            self.recipients.push(hash);
        }
        self.recipients.len() >= LENGTH
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Removes from a refusal what differs between mails: addresses, host names, numbers, queue ids.
pub(super) fn normalized(answer: &str, recipient: &str) -> String {
    let local = recipient.rsplit_once('@').map_or(recipient, |(local, _)| local).to_lowercase();
    let words = answer.split_whitespace().enumerate().filter_map(|(index, word)| {
        let word = word.trim_matches(|c: char| c.is_ascii_punctuation()).to_lowercase();
        // The two codes at the beginning identify the refusal.
        let varies = word.contains('@') || word == local || (index > 1 && word.contains(|c: char| c.is_ascii_digit()));
        (!varies).then_some(word)
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{FailureStreak, LENGTH, normalized};

    #[test]
    fn a_streak_is_equal_failures_of_different_recipients_without_a_success() {
        let mut streak = FailureStreak::default();
        let mut add = |key: &str, number: usize| streak.add(key.to_owned(), &format!("r{number}@example.org"));
        assert!((0..100).all(|_| !add("550", 1)), "one recipient");
        assert!((0..100).all(|number| !add(&format!("55{}", number % 2), number)), "two kinds in turn");
        assert!(!add("550", 0));
        assert!((1..LENGTH - 1).all(|number| !add("550", number)));
        assert!((LENGTH..1_000).all(|number| add("550", number)));
        assert_eq!(streak.recipients.len(), LENGTH);
        streak.clear();
        assert!(!streak.add("550".to_owned(), "ann@example.org"));
    }

    #[test]
    fn refusals_are_equal_whatever_they_name() {
        let first = normalized("550 5.7.1 <ann@example.org>: rejected (in reply to 4F3a) - gsmtp", "ann@example.org");
        let second = normalized("550 5.7.1 <bob@example.net>: rejected (in reply to 9C1) - gsmtp", "bob@example.net");
        assert_eq!(first, second);
        assert_eq!(normalized("550 user ann is unknown", "ann@x"), normalized("550 user bob is unknown", "bob@x"));
        assert_ne!(normalized("550 5.7.1 no", "ann@x"), normalized("550 5.1.1 no", "ann@x"));
    }
}
