//! The ends of a lease holder's work.

use leveret::text::error_chain;

use crate::Error;

/// The reason why a holder stops applying events.
#[derive(Debug)]
pub(super) enum Ended {
    /// Another process has the lease, or the projection was reset.
    Lost,
    /// The process begins again after a pause, at the position in the database.
    Again(String),
    /// The projection stops until an operator acts.
    Fatal(Error),
}

impl Ended {
    /// Classifies an error of the log. An unavailable log is retried, because the broker gives one reason for a lost
    /// connection and a missing right.
    pub(super) fn log(error: leveret::Error) -> Self {
        match error {
            leveret::Error::Unavailable { .. } => Self::Again(error_chain(&error)),
            error => Self::Fatal(Error::Log(error)),
        }
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        if error.is_unavailable() { Self::Again(error_chain(&error)) } else { Self::Fatal(error) }
    }
}
