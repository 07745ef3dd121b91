//! Every fate of a delivery, in one table: what is republished, what the metrics count, which status update a tracked job gets
//! and what the log says. A new fate is a variant and a row.

use std::time::Duration;

use crate::{
    message::slot::Slot,
    outcome::{ErrorKind, Finish, Outcome},
};

/// How the session settles a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// The outcome is safe.
    Ack,
    /// No copy could be made: the broker dead-letters the original.
    Reject,
    /// Nothing is safe: the broker delivers it to another worker.
    Requeue,
}

/// What happens with a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// An attempt has ended, or none is made because the job cannot run.
    Outcome(Outcome),
    /// It arrived before its time and waits for so many more milliseconds.
    TooEarly(u64),
    /// A limit or an open circuit delays it.
    Deferred {
        delay: Duration,
        /// Its slot of a rate limit.
        slot: Option<Slot>,
    },
    /// It goes to the suspect queue.
    Suspect,
    /// This worker stops, and another one gets the job.
    Requeued,
    /// Its cancellation was accepted before it was done.
    Cancelled,
    /// An event of one process alone, which has one attempt.
    Dropped { kind: ErrorKind, reason: String },
}

/// What is republished before the original is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    None,
    /// Delayed, with an attempt charged and the error.
    Retry,
    /// Delayed, with no attempt charged.
    Delayed,
    /// Delayed as its publisher wanted.
    Early,
    DeadLetter,
    SuspectQueue,
    SameQueue,
}

/// The status update of a tracked job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    None,
    Succeeded,
    Duplicate,
    Snoozed,
    Retrying,
    Dead,
    Cancelled,
}

/// The log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLine {
    None,
    AttemptFailed,
    DeadLettered,
    MovedToSuspectQueue,
    Cancelled,
    Dropped,
}

/// What follows from one disposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) copy: Copy,
    /// The label `outcome` of `leveret_jobs_finished_total`; none for a job that stays in a worker's queues.
    pub(crate) finish: Option<Finish>,
    pub(crate) update: Update,
    pub(crate) line: LogLine,
}

impl Disposition {
    /// The table.
    #[rustfmt::skip]
    pub(crate) fn row(&self) -> Row {
        use Finish as F;
        let (copy, finish, update, line) = match self {
            Self::Outcome(Outcome::Done)              => (Copy::None,         Some(F::Succeeded), Update::Succeeded, LogLine::None),
            Self::Outcome(Outcome::Duplicate)         => (Copy::None,         Some(F::Duplicate), Update::Duplicate, LogLine::None),
            Self::Outcome(Outcome::Retry { .. })      => (Copy::Retry,        Some(F::Retried),   Update::Retrying,  LogLine::AttemptFailed),
            Self::Outcome(Outcome::Snooze { .. })     => (Copy::Delayed,      Some(F::Snoozed),   Update::Snoozed,   LogLine::None),
            Self::Outcome(Outcome::DeadLetter { kind: ErrorKind::Expired, .. })
                                                      => (Copy::DeadLetter,   Some(F::Expired),   Update::Dead,      LogLine::DeadLettered),
            Self::Outcome(Outcome::DeadLetter { .. }) => (Copy::DeadLetter,   Some(F::Dead),      Update::Dead,      LogLine::DeadLettered),
            Self::TooEarly(_)                         => (Copy::Early,        Some(F::Snoozed),   Update::Snoozed,   LogLine::None),
            Self::Deferred { .. }                     => (Copy::Delayed,      Some(F::Snoozed),   Update::Snoozed,   LogLine::None),
            Self::Cancelled                           => (Copy::None,         Some(F::Cancelled), Update::Cancelled, LogLine::Cancelled),
            Self::Dropped { .. }                      => (Copy::None,         Some(F::Dropped),   Update::Dead,      LogLine::Dropped),
            Self::Suspect                             => (Copy::SuspectQueue, None,               Update::None,      LogLine::MovedToSuspectQueue),
            Self::Requeued                            => (Copy::SameQueue,    None,               Update::None,  LogLine::None),
        };
        Row { copy, finish, update, line }
    }

    pub(crate) fn dead(kind: ErrorKind, reason: String) -> Self {
        Self::Outcome(Outcome::DeadLetter { kind, reason })
    }

    /// Returns what becomes of an event of one process: what would be tried again or dead-lettered is dropped.
    pub(crate) fn without_ladder(self) -> Self {
        match self {
            Self::Outcome(Outcome::Retry { kind, reason, .. } | Outcome::DeadLetter { kind, reason }) => {
                Self::Dropped { kind, reason }
            }
            Self::Outcome(Outcome::Done | Outcome::Duplicate) | Self::Cancelled | Self::Requeued => self,
            Self::Outcome(Outcome::Snooze { .. }) | Self::TooEarly(_) | Self::Deferred { .. } | Self::Suspect => {
                let reason = "it cannot be delayed".to_owned();
                Self::Dropped { kind: ErrorKind::Error, reason }
            }
            Self::Dropped { .. } => self,
        }
    }

    /// How long the job waits in the broker.
    pub(crate) fn delay(&self) -> Duration {
        match self {
            Self::Outcome(Outcome::Retry { delay, .. } | Outcome::Snooze { delay }) | Self::Deferred { delay, .. } => {
                *delay
            }
            Self::TooEarly(ms) => Duration::from_millis(*ms),
            _ => Duration::ZERO,
        }
    }

    /// Why the attempt failed, if it did.
    pub(crate) fn failure(&self) -> Option<(ErrorKind, &str)> {
        match self {
            Self::Outcome(Outcome::Retry { kind, reason, .. } | Outcome::DeadLetter { kind, reason })
            | Self::Dropped { kind, reason } => Some((*kind, reason)),
            _ => None,
        }
    }

    /// The failure of a disposition whose row has one.
    pub(crate) fn error(&self) -> (ErrorKind, &str) {
        self.failure().unwrap_or((ErrorKind::Error, ""))
    }

    pub(crate) fn slot(&self) -> Option<Slot> {
        match self {
            Self::Deferred { slot, .. } => *slot,
            _ => None,
        }
    }

    pub(crate) fn is_snooze(&self) -> bool {
        matches!(self, Self::Outcome(Outcome::Snooze { .. }))
    }

    /// The job's end where no copy of it could be made, for whatever reason: its own error, if it has one, stays the kind.
    pub(crate) fn without_copy(&self, why: &str) -> (ErrorKind, String) {
        match self.failure() {
            Some((kind, reason)) => (kind, format!("{reason} ({why})")),
            None => (ErrorKind::TooLarge, why.to_owned()),
        }
    }
}

impl Settlement {
    /// The AMQP method, in the words of traces.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Reject => "reject",
            Self::Requeue => "requeue",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, in the order of the book's page on outcomes.
    fn one_of_each() -> [Disposition; 12] {
        let delay = Duration::from_secs(1);
        let kind = ErrorKind::Error;
        [
            Disposition::Outcome(Outcome::Done),
            Disposition::Outcome(Outcome::Duplicate),
            Disposition::Outcome(Outcome::Retry { delay, kind, reason: String::new() }),
            Disposition::Outcome(Outcome::Snooze { delay }),
            Disposition::TooEarly(1),
            Disposition::Deferred { delay, slot: None },
            Disposition::dead(kind, String::new()),
            Disposition::dead(ErrorKind::Expired, String::new()),
            Disposition::Cancelled,
            Disposition::Dropped { kind, reason: String::new() },
            Disposition::Suspect,
            Disposition::Requeued,
        ]
    }

    #[test]
    fn the_books_page_on_outcomes_shows_this_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/outcomes.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| fate"))
            .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
            .collect();
        let word = |word: String| if word == "none" { "–".to_owned() } else { word };
        for (disposition, cells) in one_of_each().iter().zip(&rows) {
            let row = disposition.row();
            let shown = format!("{disposition:?}");
            assert_eq!(cells[2], row.finish.map_or("–", Finish::as_str), "{shown}");
            assert_eq!(cells[3], word(format!("{:?}", row.update).to_lowercase()), "{shown}");
            assert_eq!(cells[5] == "–", row.line == LogLine::None, "{shown}");
            assert_eq!(cells[6] == "an ack", row.copy == Copy::None, "{shown}");
        }
        assert_eq!(rows.len(), one_of_each().len());
    }

    #[test]
    fn a_copy_that_cannot_be_made_never_replaces_the_jobs_own_error() {
        let failed = Outcome::Retry { delay: Duration::ZERO, kind: ErrorKind::Timeout, reason: "too slow".to_owned() };
        let end = Disposition::Outcome(failed).without_copy("no room");
        assert_eq!(end, (ErrorKind::Timeout, "too slow (no room)".to_owned()));
        assert_eq!(Disposition::Suspect.without_copy("no room"), (ErrorKind::TooLarge, "no room".to_owned()));
    }
}
