//! Errors of operations on dead letters.

use crate::field_error::FieldError;

/// An operation on dead letters that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The dead letter does not exist.
    #[error("there is no dead letter {0}")]
    NoLetter(i64),
    /// The dead letter was purged or replayed, so that it cannot be changed.
    #[error("dead letter {id} {fate}")]
    NotDead {
        /// The letter's number.
        id: i64,
        /// The change of its state, the time of that, and the way out.
        fate: String,
    },
    /// The replay does not exist.
    #[error("there is no replay {0}")]
    NoReplay(i64),
    /// The settings of a replay are not valid.
    #[error("{0}")]
    Options(String),
    /// The dead letter was not edited.
    #[error("dead letter {0} has its original payload")]
    NotEdited(i64),
    /// The replay has ended.
    #[error("replay {0} has ended")]
    Ended(i64),
    /// Another process runs the replay, or ran it until a moment ago and was killed.
    #[error("replay {0} is under way")]
    Running(i64),
    /// The payload is not valid for its job.
    #[error("the payload is not valid for the job {job}: {}", shown(.field_errors))]
    Payload {
        /// The job's name.
        job: String,
        /// The errors of its fields.
        field_errors: Vec<FieldError>,
    },
    /// The broker was unreachable for too long. The replay is open and can be resumed.
    #[error("replay {replay} was interrupted and can be resumed: {reason}")]
    Interrupted {
        /// The replay's number.
        replay: i64,
        /// The last error of the broker.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] leveret_store::Error),
    /// A reader of the dead-letter queue cannot be set up.
    #[error(transparent)]
    Reader(#[from] leveret::Error),
    /// A file could not be read or written.
    #[error("reading or writing failed")]
    Io(#[from] std::io::Error),
}

fn shown(field_errors: &[FieldError]) -> String {
    let each: Vec<_> =
        field_errors.iter().map(|field_error| format!("{}: {}", field_error.pointer, field_error.detail)).collect();
    each.join("; ")
}
