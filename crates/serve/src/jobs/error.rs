//! Errors of operations on jobs.

use super::task::Status;
use crate::{field_error::FieldError, idempotency::TakenKey};
use leveret::PublishError;

/// An operation on a job that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The submission is not valid. Nothing was published.
    #[error("{}", summary(.field_errors))]
    Invalid {
        /// The errors of all fields.
        field_errors: Vec<FieldError>,
    },
    /// The idempotency key was used for another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// A request with this idempotency key is under way.
    #[error("a request with this idempotency key is under way")]
    KeyInFlight,
    /// No tracked job has the id: it may be deleted, or not known yet.
    #[error(
        "no task {id:?} is known here. A job that was submitted through this API is known at once, another tracked job once \
         a worker has received it: a delayed one only after its delay. Tasks are deleted when their retention is over"
    )]
    NotFound {
        /// The id.
        id: String,
    },
    /// The job's state does not allow the operation.
    #[error("the task is {status}: {reason}")]
    Conflict {
        /// The job's status.
        status: Status,
        /// The required state.
        reason: &'static str,
    },
    /// The job is dead-lettered, but its dead letter is not ingested.
    #[error("the dead letter of the task is not in the store yet, or was purged")]
    NoLetter,
    /// Too many clients wait for jobs.
    #[error("too many clients wait for tasks")]
    TooManyWait,
    /// The server has had no connection to the broker yet, or cannot declare the queue of status updates.
    #[error("nothing can be submitted yet: {reason}")]
    Unprepared {
        /// The cause.
        reason: String,
    },
    /// The store is unreachable, or slower than the submissions.
    #[error("the store is unreachable: nothing was submitted")]
    StoreAway,
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] leveret_store::Error),
    /// The publish failed.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Error {
    pub(crate) fn invalid(field_error: FieldError) -> Self {
        Self::Invalid { field_errors: vec![field_error] }
    }
}

impl From<TakenKey> for Error {
    fn from(key: TakenKey) -> Self {
        match key {
            TakenKey::Reused => Self::KeyReused,
            TakenKey::InFlight => Self::KeyInFlight,
        }
    }
}

fn summary(field_errors: &[FieldError]) -> String {
    let Some(first) = field_errors.first() else { return "the submission is not valid".to_owned() };
    let place = first.index.map(|index| format!("/{index}")).unwrap_or_default();
    let more = if field_errors.len() > 1 { format!(" (and {} more)", field_errors.len() - 1) } else { String::new() };
    format!("{place}{}: {}{more}", first.pointer, first.detail)
}
