//! Detects that another program, or another version of this one, runs a projection of the same name with other topics.
//!
//! Both would move one position, and each view would lack the events that the other program has no handler for. So the
//! row of a projection has the topics of the process that had the lease last. Each process compares them with its own:
//!
//! * A new version that adds a topic waits while the old one has the lease, and takes it afterwards. A process of the
//!   old version does not take it back, because the view would lack events of the new topic.
//! * Any other difference while a process has the lease is an error.
//! * While no process has the lease, a process that starts takes it, and logs the topics that the view had before.

use tokio::time::{Duration, Instant};

use super::table::{Held, Seen};
use crate::{Error, Result};

const LOG_AGAIN: Duration = Duration::from_secs(60 * 60);
/// Separates topics, which have none of its characters.
const SEPARATOR: &str = ", ";

/// The topics of a projection as one text, which is the same for each order of its handlers.
pub(super) fn text(topics: &[String]) -> String {
    let mut topics: Vec<_> = topics.iter().map(String::as_str).collect();
    topics.sort_unstable();
    topics.join(SEPARATOR)
}

/// The topics of this process, and its knowledge of others.
#[derive(Debug)]
pub(super) struct Conflicts<'p> {
    projection: &'p str,
    own: &'p str,
    /// True once the row had the topics of this process. Other topics are then those of a later program.
    were_own: bool,
    logged: Option<Instant>,
}

impl<'p> Conflicts<'p> {
    pub(super) fn new(projection: &'p str, own: &'p str) -> Self {
        Self { projection, own, were_own: false, logged: None }
    }

    /// Returns whether this process may take the lease once that is free.
    pub(super) fn may_take(&mut self, seen: &Seen) -> Result<bool> {
        let Some(others) = self.others(seen) else {
            self.were_own |= seen.topics.is_some();
            return Ok(true);
        };
        if !self.were_own {
            let Some(holder) = &seen.holder else { return Ok(true) };
            if !self.adds_to(others) {
                return Err(Error::OtherTopics {
                    projection: self.projection.to_owned(),
                    topics: self.own.to_owned(),
                    other_topics: others.to_owned(),
                    holder: holder.clone(),
                });
            }
        }
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_AGAIN) {
            self.logged = Some(Instant::now());
            tracing::warn!(
                projection = self.projection,
                topics = self.own,
                other_topics = others,
                other = seen.holder.as_deref(),
                "the projection has other topics in another process: this process waits"
            );
        }
        Ok(false)
    }

    /// Records that this process has taken the lease.
    pub(super) fn took(&mut self, seen: &Seen, held: &Held) {
        self.were_own = true;
        // A view that is empty gets all events.
        if let (Some(others), Some(place)) = (self.others(seen), &held.place) {
            tracing::warn!(
                projection = self.projection,
                topics = self.own,
                former_topics = others,
                offset = place.offset,
                "the projection has other topics than before: its view lacks the earlier events of new topics"
            );
        }
    }

    /// The topics in the row, if they are not those of this process.
    fn others<'s>(&self, seen: &'s Seen) -> Option<&'s str> {
        seen.topics.as_deref().filter(|topics| *topics != self.own)
    }

    /// Returns whether this process has all these topics.
    fn adds_to(&self, others: &str) -> bool {
        others.split(SEPARATOR).all(|other| self.own.split(SEPARATOR).any(|own| own == other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(topics: &str, holder: &str) -> Seen {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Seen { topics: text(topics), holder: text(holder) }
    }

    /// The topics and the holder in the row, and whether the process may take the lease; `None` for an error.
    type Case = (&'static str, &'static str, Option<bool>);

    #[test]
    fn a_process_waits_for_an_old_version_or_a_later_one_and_another_program_is_an_error() {
        let processes: [(&str, &[Case]); 7] = [
            ("a", &[("", "", Some(true)), ("a", "one:1", Some(true)), ("a", "", Some(true))]),
            ("a, b", &[("a", "one:1", Some(false)), ("a", "", Some(true))]),
            ("a", &[("a, b", "one:1", None)]),
            ("c", &[("a", "one:1", None)]),
            ("a, ab", &[("b", "one:1", None)]),
            ("c", &[("a", "", Some(true))]),
            // A leftover of the old version, until a rollback or a reset.
            (
                "a",
                &[
                    ("a", "one:1", Some(true)),
                    ("a, b", "two:1", Some(false)),
                    ("a, b", "", Some(false)),
                    ("a", "one:2", Some(true)),
                    ("c", "", Some(false)),
                    ("", "", Some(true)),
                ],
            ),
        ];
        for (own, rows) in processes {
            let mut conflicts = Conflicts::new("revenue", own);
            for (topics, holder, expected) in rows {
                let may_take = conflicts.may_take(&seen(topics, holder));
                assert_eq!(may_take.as_ref().ok(), expected.as_ref(), "{own:?} finds {topics:?} of {holder:?}");
            }
        }
    }

    #[test]
    fn a_process_that_had_the_lease_does_not_take_it_from_a_later_version() {
        let mut conflicts = Conflicts::new("revenue", "a");
        let held = Held { epoch: 1, is_emptied: true, place: None, applied: 0, allows_truncated: false, skips: None };
        assert!(conflicts.may_take(&seen("b", "")).unwrap());
        conflicts.took(&seen("b", ""), &held);
        assert!(!conflicts.may_take(&seen("a, b", "")).unwrap());
    }

    #[test]
    fn the_text_of_topics_does_not_depend_on_the_order_of_handlers() {
        let text = |topics: [&str; 2]| text(&topics.map(str::to_owned));
        assert_eq!(text(["order.placed", "order.#"]), "order.#, order.placed");
        assert_eq!(text(["order.#", "order.placed"]), "order.#, order.placed");
    }
}
