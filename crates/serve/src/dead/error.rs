//! Why an operation on dead letters failed.

use crate::field_error::FieldError;

/// Why the desk could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No dead letter of that number lies there.
    #[error("no dead letter {0} lies here")]
    NoLetter(i64),
    /// There was no replay of that number.
    #[error("there is no replay {0}")]
    NoReplay(i64),
    /// A replay that cannot go as it is asked for.
    #[error("{0}")]
    Options(String),
    /// The dead letter has the payload that it died with.
    #[error("dead letter {0} has its original payload")]
    NotEdited(i64),
    /// The replay has ended.
    #[error("replay {0} has ended")]
    Ended(i64),
    /// Somebody runs the replay, or did so until a moment ago and was killed.
    #[error("replay {0} is under way")]
    Running(i64),
    /// A payload that the job's schema does not allow.
    #[error("the payload is not what the job {job} takes: {}", shown(.field_errors))]
    Payload {
        /// The job's name.
        job: String,
        /// What is wrong with it, and where.
        field_errors: Vec<FieldError>,
    },
    /// The broker was away for too long; the replay is open, and can go on.
    #[error("replay {replay} cannot go on now, and can be resumed: {reason}")]
    Interrupted {
        /// Its number.
        replay: i64,
        /// What the broker said last.
        reason: String,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] leveret_store::Error),
    /// A file could not be read or written.
    #[error("reading or writing failed")]
    Io(#[from] std::io::Error),
}

fn shown(field_errors: &[FieldError]) -> String {
    let each: Vec<_> =
        field_errors.iter().map(|field_error| format!("{}: {}", field_error.pointer, field_error.detail)).collect();
    each.join("; ")
}
