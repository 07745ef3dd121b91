//! Topics of events, and the patterns that match them: RabbitMQ's rules for a topic exchange.
//!
//! Where the patterns of two handlers match one topic, the more specific pattern wins: the one whose topics the other
//! pattern matches too. Two patterns that share some topics, and neither of which matches all topics of the other, are a
//! tie.

/// A pattern as its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<String>);

impl Pattern {
    /// Returns the pattern, with its wildcards in the one order of several that match the same.
    pub(crate) fn new(pattern: &str) -> Self {
        let mut words: Vec<String> = Vec::new();
        for word in pattern.split('.') {
            match (word, words.last().is_some_and(|last| last == "#")) {
                ("#", true) => {}
                // `#.*` and `*.#` match the same.
                ("*", true) => words.insert(words.len() - 1, word.to_owned()),
                _ => words.push(word.to_owned()),
            }
        }
        Self(words)
    }

    /// Returns whether the pattern matches one topic only.
    pub(crate) fn is_topic(pattern: &str) -> bool {
        !pattern.split('.').any(|word| matches!(word, "*" | "#"))
    }

    pub(crate) fn matches(&self, topic: &str) -> bool {
        let (pattern, topic): (_, Vec<&str>) = (&self.0, topic.split('.').collect());
        // Where the last `#` stands, and the first word of the topic behind what it takes.
        let (mut at, mut word, mut last) = (0, 0, None);
        while word < topic.len() {
            match pattern.get(at).map(String::as_str) {
                Some("#") => {
                    last = Some((at, word));
                    at += 1;
                }
                Some(part) if part == "*" || part == topic[word] => (at, word) = (at + 1, word + 1),
                _ => {
                    let Some((hash, behind)) = last else { return false };
                    (at, word) = (hash + 1, behind + 1);
                    last = Some((hash, word));
                }
            }
        }
        pattern[at..].iter().all(|part| part == "#")
    }

    /// Returns whether every topic that `other` matches is matched by this pattern, as far as a comparison word by word
    /// shows it.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        compare(&self.0, &other.0, false)
    }

    /// Returns whether some topic is matched by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        compare(&self.0, &other.0, true)
    }
}

/// Compares two patterns from their ends to their starts. With `both`, wildcards of either side take words of the other;
/// without it, only those of `one` do.
fn compare(one: &[String], other: &[String], both: bool) -> bool {
    let mut below = vec![false; other.len() + 1];
    for at in (0..=one.len()).rev() {
        let mut row = vec![false; other.len() + 1];
        for to in (0..=other.len()).rev() {
            let (hash, hashed) = (one.get(at).is_some_and(|w| w == "#"), other.get(to).is_some_and(|w| w == "#"));
            row[to] = match (one.get(at), other.get(to)) {
                (None, None) => true,
                (Some(_), None) => hash && below[to],
                (None, Some(_)) => both && hashed && row[to + 1],
                (Some(_), Some(_)) if hash || (both && hashed) => below[to] || row[to + 1],
                (Some(_), Some(_)) if hashed => false,
                (Some(a), Some(b)) => (a == b || a == "*" || (both && b == "*")) && below[to + 1],
            };
        }
        below = row;
    }
    below[0]
}

/// Patterns with the index of the handler of each, the more specific ones first.
#[derive(Clone, Debug, Default)]
pub struct Patterns(Vec<(Pattern, usize)>);

impl Patterns {
    /// Orders the patterns.
    ///
    /// # Errors
    ///
    /// Two patterns of different handlers that are a tie.
    pub fn new<'a>(patterns: &[(&'a str, usize)]) -> Result<Self, (&'a str, &'a str)> {
        let mut ordered: Vec<(Pattern, usize)> = Vec::new();
        for (number, (text, index)) in patterns.iter().enumerate() {
            let pattern = Pattern::new(text);
            for (other_text, other_index) in &patterns[..number] {
                let other = Pattern::new(other_text);
                let is_tie = pattern.covers(&other) == other.covers(&pattern) && pattern.overlaps(&other);
                if is_tie && index != other_index {
                    return Err((other_text, text));
                }
            }
            // Behind each pattern that is more specific, and before each that is less.
            let place = ordered.iter().position(|(other, _)| other.covers(&pattern)).unwrap_or(ordered.len());
            ordered.insert(place, (pattern, *index));
        }
        Ok(Self(ordered))
    }

    /// Returns the index of the handler of a topic.
    #[must_use]
    pub fn find(&self, topic: &str) -> Option<usize> {
        self.0.iter().find(|(pattern, _)| pattern.matches(topic)).map(|(_, index)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_one_word_and_a_hash_any_number_as_in_rabbitmq() {
        let table = [
            ("order.placed", "order.placed", true),
            ("order.placed", "order", false),
            ("order.*", "order.placed", true),
            ("order.*", "order", false),
            ("order.*", "order.placed.late", false),
            ("order.#", "order", true),
            ("order.#", "order.placed.late", true),
            ("#", "a.b.c", true),
            ("#.late", "late", true),
            ("#.late", "order.placed.late", true),
            ("#.late", "late.order", false),
            ("a.#.b.#.c", "a.b.c", true),
            ("a.#.b.#.c", "a.x.b.y.b.z.c", true),
            ("a.#.b.#.c", "a.x.c", false),
            ("*.#.*", "a", false),
            ("*.#.*", "a.b", true),
            ("#.*", "a", true),
        ];
        for (pattern, topic, wanted) in table {
            assert_eq!(Pattern::new(pattern).matches(topic), wanted, "{pattern} and {topic}");
        }
    }

    /// All topics of up to four words out of two.
    fn topics() -> Vec<String> {
        let mut all: Vec<String> = vec!["a".into(), "b".into()];
        let mut last = all.clone();
        for _ in 1..4 {
            last = last.iter().flat_map(|topic| [format!("{topic}.a"), format!("{topic}.b")]).collect();
            all.extend(last.clone());
        }
        all
    }

    /// All patterns of up to three words.
    fn patterns() -> Vec<String> {
        let words = ["a", "b", "*", "#"];
        let mut all: Vec<String> = words.map(str::to_owned).into();
        let mut last = all.clone();
        for _ in 1..3 {
            last = last.iter().flat_map(|start| words.map(|word| format!("{start}.{word}"))).collect();
            all.extend(last.clone());
        }
        all
    }

    #[test]
    fn what_patterns_cover_and_share_agrees_with_the_topics_that_they_match() {
        let topics = topics();
        let sets: Vec<(Pattern, Vec<bool>)> = patterns()
            .iter()
            .map(|text| (Pattern::new(text), topics.iter().map(|topic| Pattern::new(text).matches(topic)).collect()))
            .collect();
        for (one, left) in &sets {
            for (other, right) in &sets {
                let shared = left.iter().zip(right).any(|(one, other)| *one && *other);
                assert_eq!(one.overlaps(other), shared, "{one:?} and {other:?}");
                let covered = right.iter().zip(left).all(|(other, one)| !other || *one);
                assert!(!one.covers(other) || covered, "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn the_more_specific_pattern_wins_and_a_tie_is_an_error() {
        let patterns = [("#", 0), ("order.*", 1), ("order.#", 2), ("mail.*", 3), ("mail.sent", 4)];
        for turned in 0..patterns.len() {
            let mut turn = patterns;
            turn.rotate_left(turned);
            let ordered = Patterns::new(&turn).unwrap_or_default();
            let found = ["order.placed", "order", "order.a.b", "mail.gone", "mail.sent", "x"].map(|t| ordered.find(t));
            assert_eq!(found, [Some(1), Some(2), Some(2), Some(3), Some(4), Some(0)], "{turned}");
        }
        let of_two = |one, other| Patterns::new(&[(one, 0), (other, 1)]).err();
        assert_eq!(of_two("order.*", "*.placed"), Some(("order.*", "*.placed")));
        assert_eq!(of_two("order.*", "order.*"), Some(("order.*", "order.*")));
        assert_eq!(of_two("#.*", "*.#"), Some(("#.*", "*.#")));
        assert_eq!(of_two("order.*", "mail.*"), None);
        assert!(Patterns::new(&[("order.*", 0), ("*.placed", 0)]).is_ok(), "both lead to one handler");
    }
}
