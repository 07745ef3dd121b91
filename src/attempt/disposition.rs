//! The fates of a delivery in one table: what is republished, what the metrics count, which status update a tracked job
//! gets and what is logged. A new fate is a variant and a row.

use std::time::Duration;

use crate::{
    message::rate_slot::RateSlot,
    outcome::{ErrorKind, Finish, Outcome},
    time::millis,
    topology::delay::UNIT,
};

/// The way in which a session settles a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// The outcome is safe: ack.
    Ack,
    /// No copy could be made: the broker dead-letters the original.
    Reject,
    /// Nothing is safe: the broker delivers the job to another worker.
    Requeue,
}

/// The fate of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// An attempt has ended, or the job cannot run.
    Outcome(Outcome),
    /// The job arrived this many milliseconds before its time, and waits for the rest.
    TooEarly(u64),
    /// A limit or an open circuit delays the job.
    Deferred {
        delay: Duration,
        /// The job's slot of a rate limit.
        slot: Option<RateSlot>,
    },
    /// The job moves to the suspect queue.
    Suspect,
    /// This worker stops, and another worker gets the job.
    Requeued,
    /// The job was cancelled before it was done.
    Cancelled,
    /// A request that its caller does not wait for any more, with the failure of its last attempt.
    RequestExpired(Option<(ErrorKind, String)>),
    /// An event of one process alone, which has one attempt.
    Dropped { kind: ErrorKind, reason: String },
}

/// The copy that is published before the original is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    None,
    /// Delayed, with an attempt charged, and the error.
    Retry,
    /// Delayed, with no attempt charged.
    Delayed,
    /// Delayed until the time that its publisher set.
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

/// The effects of one disposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) copy: Copy,
    /// The label `outcome` of `leveret_jobs_finished_total`; `None` for a job that stays in a worker's queues.
    pub(crate) finish: Option<Finish>,
    pub(crate) update: Update,
    pub(crate) line: LogLine,
}

impl Disposition {
    /// Returns the effects of this disposition.
    #[rustfmt::skip]
    pub(crate) fn row(&self) -> Row {
        use Finish as F;
        let (copy, finish, update, line) = match self {
            Self::Outcome(Outcome::Done)              => (Copy::None,         Some(F::Succeeded), Update::Succeeded, LogLine::None),
            Self::Outcome(Outcome::Duplicate)         => (Copy::None,         Some(F::Duplicate), Update::Duplicate, LogLine::None),
            Self::Outcome(Outcome::Retry { .. })      => (Copy::Retry,        Some(F::Retried),   Update::Retrying,  LogLine::AttemptFailed),
            Self::Outcome(Outcome::Snooze { .. })     => (Copy::Delayed,      Some(F::Snoozed),   Update::Snoozed,   LogLine::None),
            Self::Outcome(Outcome::Yield)             => (Copy::Delayed,      Some(F::Snoozed),   Update::Snoozed,   LogLine::None),
            Self::Outcome(Outcome::DeadLetter { kind: ErrorKind::Expired, .. })
                                                      => (Copy::DeadLetter,   Some(F::Expired),   Update::Dead,      LogLine::DeadLettered),
            Self::Outcome(Outcome::DeadLetter { .. }) => (Copy::DeadLetter,   Some(F::Dead),      Update::Dead,      LogLine::DeadLettered),
            Self::TooEarly(_)                         => (Copy::Early,        Some(F::Snoozed),   Update::Snoozed,   LogLine::None),
            Self::Deferred { .. }                     => (Copy::Delayed,      Some(F::Snoozed),   Update::Snoozed,   LogLine::None),
            Self::Cancelled                           => (Copy::None,         Some(F::Cancelled), Update::Cancelled, LogLine::Cancelled),
            Self::RequestExpired(_)                   => (Copy::None,         Some(F::Expired),   Update::Cancelled, LogLine::None),
            Self::Dropped { .. }                      => (Copy::None,         Some(F::Dropped),   Update::Dead,      LogLine::Dropped),
            Self::Suspect                             => (Copy::SuspectQueue, None,               Update::None,      LogLine::MovedToSuspectQueue),
            Self::Requeued                            => (Copy::SameQueue,    None,               Update::None,  LogLine::None),
        };
        Row { copy, finish, update, line }
    }

    pub(crate) fn dead(kind: ErrorKind, reason: String) -> Self {
        Self::Outcome(Outcome::DeadLetter { kind, reason })
    }

    /// Returns what becomes of an event of one process: what would be retried or dead-lettered is dropped.
    pub(crate) fn without_ladder(self) -> Self {
        match self {
            Self::Outcome(Outcome::Retry { kind, reason, .. } | Outcome::DeadLetter { kind, reason }) => {
                Self::Dropped { kind, reason }
            }
            Self::Outcome(Outcome::Done | Outcome::Duplicate) | Self::Cancelled | Self::Requeued => self,
            Self::Outcome(Outcome::Snooze { .. } | Outcome::Yield)
            | Self::TooEarly(_)
            | Self::Deferred { .. }
            | Self::Suspect => {
                let reason = "it cannot be delayed".to_owned();
                Self::Dropped { kind: ErrorKind::Error, reason }
            }
            Self::Dropped { .. } | Self::RequestExpired(_) => self,
        }
    }

    /// Returns how long the job waits in the broker.
    pub(crate) fn delay(&self) -> Duration {
        match self {
            Self::Outcome(Outcome::Retry { delay, .. } | Outcome::Snooze { delay }) | Self::Deferred { delay, .. } => {
                *delay
            }
            Self::Outcome(Outcome::Yield) => UNIT,
            Self::TooEarly(ms) => Duration::from_millis(*ms),
            _ => Duration::ZERO,
        }
    }

    /// Returns the error of a failed attempt.
    pub(crate) fn failure(&self) -> Option<(ErrorKind, &str)> {
        match self {
            Self::Outcome(Outcome::Retry { kind, reason, .. } | Outcome::DeadLetter { kind, reason })
            | Self::Dropped { kind, reason } => Some((*kind, reason)),
            Self::RequestExpired(failure) => failure.as_ref().map(|(kind, reason)| (*kind, reason.as_str())),
            _ => None,
        }
    }

    /// Returns what happens instead with a request that its caller waits for until `expires_at`: nothing is kept for later
    /// than that.
    pub(crate) fn of_request(self, expires_at: u64, now_ms: u64) -> Self {
        let is_too_late = |delay: Duration| now_ms.saturating_add(millis(delay)) >= expires_at;
        match self {
            Self::Outcome(Outcome::DeadLetter { kind: ErrorKind::Expired, .. }) => Self::RequestExpired(None),
            Self::Outcome(Outcome::Retry { delay, kind, reason }) if is_too_late(delay) => {
                Self::RequestExpired(Some((kind, reason)))
            }
            Self::Outcome(Outcome::Snooze { .. } | Outcome::Yield) | Self::TooEarly(_) | Self::Deferred { .. }
                if is_too_late(self.delay()) =>
            {
                Self::RequestExpired(None)
            }
            other => other,
        }
    }

    /// Returns the error of a disposition whose row has one.
    pub(crate) fn error(&self) -> (ErrorKind, &str) {
        self.failure().unwrap_or((ErrorKind::Error, ""))
    }

    pub(crate) fn slot(&self) -> Option<RateSlot> {
        match self {
            Self::Deferred { slot, .. } => *slot,
            _ => None,
        }
    }

    /// Returns the error of a job of which no copy could be made. The job's own error, if there is one, keeps its kind.
    pub(crate) fn without_copy(&self, why: &str) -> (ErrorKind, String) {
        match self.failure() {
            Some((kind, reason)) => (kind, format!("{reason} ({why})")),
            None => (ErrorKind::TooLarge, why.to_owned()),
        }
    }
}

impl Settlement {
    /// Returns the AMQP method, as traces name it.
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
    fn one_of_each() -> [Disposition; 14] {
        let delay = Duration::from_secs(1);
        let kind = ErrorKind::Error;
        [
            Disposition::Outcome(Outcome::Done),
            Disposition::Outcome(Outcome::Duplicate),
            Disposition::Outcome(Outcome::Retry { delay, kind, reason: String::new() }),
            Disposition::Outcome(Outcome::Snooze { delay }),
            Disposition::Outcome(Outcome::Yield),
            Disposition::TooEarly(1),
            Disposition::Deferred { delay, slot: None },
            Disposition::dead(kind, String::new()),
            Disposition::dead(ErrorKind::Expired, String::new()),
            Disposition::Cancelled,
            Disposition::RequestExpired(None),
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
    fn nothing_is_kept_for_a_request_whose_caller_will_not_wait_for_it() {
        let at = |disposition: Disposition| disposition.of_request(1_000, 500);
        let ms = Duration::from_millis;
        let retry = |delay| Disposition::Outcome(Outcome::Retry { delay, kind: ErrorKind::Error, reason: "no".into() });
        let snooze = |delay| Disposition::Outcome(Outcome::Snooze { delay });
        assert_eq!(at(retry(ms(499))), retry(ms(499)));
        assert_eq!(at(retry(ms(500))), Disposition::RequestExpired(Some((ErrorKind::Error, "no".into()))));
        assert_eq!(at(snooze(ms(499))), snooze(ms(499)));
        for late in [snooze(ms(500)), Disposition::TooEarly(500), Disposition::Deferred { delay: ms(500), slot: None }]
        {
            assert_eq!(at(late), Disposition::RequestExpired(None));
        }
        assert_eq!(at(Disposition::dead(ErrorKind::Expired, String::new())), Disposition::RequestExpired(None));
        let dead = || Disposition::dead(ErrorKind::Permanent, "never".into());
        assert_eq!(at(dead()), dead());
    }

    #[test]
    fn a_copy_that_cannot_be_made_never_replaces_the_jobs_own_error() {
        let failed = Outcome::Retry { delay: Duration::ZERO, kind: ErrorKind::Timeout, reason: "too slow".to_owned() };
        let end = Disposition::Outcome(failed).without_copy("no room");
        assert_eq!(end, (ErrorKind::Timeout, "too slow (no room)".to_owned()));
        assert_eq!(Disposition::Suspect.without_copy("no room"), (ErrorKind::TooLarge, "no room".to_owned()));
    }
}
