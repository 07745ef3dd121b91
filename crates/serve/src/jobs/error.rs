//! Why something could not be done with a job.

use super::Status;
use crate::field_error::FieldError;
use leveret::PublishError;

/// Why something could not be done with a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A submission that cannot be right; nothing was published.
    #[error("{}", summary(.field_errors))]
    Invalid {
        /// All that is wrong.
        field_errors: Vec<FieldError>,
    },
    /// The idempotency key was used for another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// A request with this idempotency key is under way.
    #[error("a request with this idempotency key is under way")]
    KeyInFlight,
    /// No tracked job has the id; perhaps not any more, perhaps not yet.
    #[error(
        "no task {id:?} is known here. A job that was submitted through this API is known at once, another tracked job once \
         a worker has received it: a delayed one only after its delay. Tasks are deleted when their retention is over"
    )]
    NotFound {
        /// The id.
        id: String,
    },
    /// The job is in a state in which this cannot be done.
    #[error("the task is {status}: {reason}")]
    Conflict {
        /// The state.
        status: Status,
        /// What would be needed.
        reason: &'static str,
    },
    /// The job died, but its dead letter has not been taken in.
    #[error("the dead letter of the task has not been taken in from its queue yet")]
    NoLetter,
    /// More wait for jobs than this server allows.
    #[error("too many wait for tasks already")]
    TooManyWait,
    /// The server has no connection to the broker since it started, or cannot make the queue it listens on.
    #[error("nothing can be submitted yet: {reason}")]
    Unprepared {
        /// Why.
        reason: String,
    },
    /// The store is away, or slower than what comes.
    #[error("the store is away: nothing was submitted")]
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

fn summary(field_errors: &[FieldError]) -> String {
    let Some(first) = field_errors.first() else { return "the submission is not valid".to_owned() };
    let place = first.index.map(|index| format!("/{index}")).unwrap_or_default();
    let more = if field_errors.len() > 1 { format!(" (and {} more)", field_errors.len() - 1) } else { String::new() };
    format!("{place}{}: {}{more}", first.pointer, first.detail)
}
