//! Errors of operations on workflows.

use super::status::WorkflowStatus;
use crate::{field_error::FieldError, idempotency::TakenKey};

/// An operation on a workflow that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The definition is not valid. Nothing has started.
    #[error("{}", .field_errors.first().map_or("the workflow is not valid", |first| first.detail.as_str()))]
    Invalid {
        /// The errors of all fields.
        field_errors: Vec<FieldError>,
    },
    /// Another definition has started under the id.
    #[error("workflow {id:?} has started with another definition: choose another id")]
    Different {
        /// The id.
        id: String,
    },
    /// The idempotency key was used for another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// A request with this idempotency key is under way.
    #[error("a request with this idempotency key is under way")]
    KeyInFlight,
    /// No workflow has the id: its definition may still be in the broker or be a dead letter, or it is deleted.
    #[error(
        "no workflow {id:?} is known here. A workflow that was started through this API is known at once, another one \
         once a server has read it from the broker; a definition that is not valid becomes a dead letter. Workflows are \
         deleted when their retention is over"
    )]
    NotFound {
        /// The id.
        id: String,
    },
    /// The workflow has no such step.
    #[error("workflow {id:?} has no step {step:?}")]
    NoStep {
        /// The id.
        id: String,
        /// The step.
        step: String,
    },
    /// The workflow's state does not allow the operation.
    #[error("the workflow is {status}: {reason}")]
    Conflict {
        /// The workflow's status.
        status: WorkflowStatus,
        /// The reason.
        reason: String,
    },
    /// Too many clients wait.
    #[error("too many clients wait for tasks or workflows")]
    TooManyWait,
    /// The catalogue of jobs is not read yet.
    #[error("nothing can be started yet: {reason}")]
    Unprepared {
        /// The cause.
        reason: String,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] leveret_store::Error),
}

impl From<TakenKey> for Error {
    fn from(key: TakenKey) -> Self {
        match key {
            TakenKey::Reused => Self::KeyReused,
            TakenKey::InFlight => Self::KeyInFlight,
        }
    }
}
