//! Outcomes of a job, with the same names in code, metrics, traces and the wire format.

use std::{fmt, time::Duration};

/// The fate of a job after an attempt.
///
/// ```
/// # use leveret::Outcome;
/// fn is_finished(outcome: &Outcome) -> bool {
///     matches!(outcome, Outcome::Done | Outcome::Duplicate | Outcome::DeadLetter { .. })
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler succeeded: the job leaves the broker.
    Done,
    /// The handler reported an earlier run ([`JobError::duplicate`](crate::JobError::duplicate)): the job leaves the
    /// broker.
    Duplicate,
    /// The job is retried after a delay; the attempt counts.
    Retry {
        /// The time that the job waits in the broker.
        delay: Duration,
        /// The class of the error.
        kind: ErrorKind,
        /// The error and its sources.
        reason: String,
    },
    /// The job is delivered again after a delay; no attempt counts.
    Snooze {
        /// The time that the job waits in the broker.
        delay: Duration,
    },
    /// The job is delivered again and goes on from its [checkpoint](crate::Context::yield_with); no attempt counts.
    Yield,
    /// The job is dead-lettered: kept in `<queue>.dead`.
    DeadLetter {
        /// The class of the reason.
        kind: ErrorKind,
        /// The reason in words.
        reason: String,
    },
}

/// The closed list of reasons for which an attempt or a job fails, as in metrics and in the header
/// `leveret-error-kind`.
///
/// ```
/// use leveret::ErrorKind;
///
/// assert_eq!(ErrorKind::UnknownJob.as_str(), "unknown_job");
/// assert!(ErrorKind::ALL.iter().any(|kind| kind.to_string() == "crash_loop"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The handler returned a retryable error.
    Error,
    /// The handler returned [`JobError::permanent`](crate::JobError::permanent).
    Permanent,
    /// The handler overran its timeout.
    Timeout,
    /// The handler panicked.
    Panic,
    /// The message does not decode as the job's type, or has a malformed framework header.
    Decode,
    /// The queue has no handler for this job name.
    UnknownJob,
    /// The payload or the headers exceed the worker's limit.
    TooLarge,
    /// The job crashed the process too often.
    CrashLoop,
    /// The job's time to live ended before it could run.
    Expired,
}

impl ErrorKind {
    /// All kinds, in the order of their documentation.
    pub const ALL: [Self; 9] = [
        Self::Error,
        Self::Permanent,
        Self::Timeout,
        Self::Panic,
        Self::Decode,
        Self::UnknownJob,
        Self::TooLarge,
        Self::CrashLoop,
        Self::Expired,
    ];

    /// Returns the kind's name on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Permanent => "permanent",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
            Self::Decode => "decode",
            Self::UnknownJob => "unknown_job",
            Self::TooLarge => "too_large",
            Self::CrashLoop => "crash_loop",
            Self::Expired => "expired",
        }
    }

    /// Returns the kind with that name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The way in which a job left the worker, as in the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Succeeded,
    Retried,
    Snoozed,
    Dead,
    Expired,
    Duplicate,
    Cancelled,
    Dropped,
}

impl Finish {
    pub(crate) const ALL: [(Self, &'static str); 8] = [
        (Self::Succeeded, "succeeded"),
        (Self::Retried, "retried"),
        (Self::Snoozed, "snoozed"),
        (Self::Dead, "dead"),
        (Self::Expired, "expired"),
        (Self::Duplicate, "duplicate"),
        (Self::Cancelled, "cancelled"),
        (Self::Dropped, "dropped"),
    ];

    /// Returns its name in metrics and traces.
    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }
}
