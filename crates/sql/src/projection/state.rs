//! The ends of a lease holder's work.

use leveret::text::error_chain;

use crate::Error;

/// The reason why a holder stops to apply events.
#[derive(Debug)]
pub(super) enum Ended {
    /// Another process has the lease, or the projection was reset.
    Lost,
    /// It begins again after a pause, at the position that the database has.
    Again(String),
    /// The projection stops until an operator acts.
    Fatal(Error),
}

impl Ended {
    /// Of an error of the log, which may pass: the broker gives one reason for a lost connection and a missing right.
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
