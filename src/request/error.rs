//! The error of a request.

use std::time::Duration;

use crate::{error::PublishError, outcome::ErrorKind};

/// The reason why a request has no result.
///
/// After [`Lost`](Self::Lost) and [`TimedOut`](Self::TimedOut) the job may have run, or may still run. The other errors
/// state the outcome of the job.
///
/// ```
/// # use leveret::RequestError;
/// fn may_have_run(error: &RequestError) -> bool {
///     matches!(error, RequestError::Lost | RequestError::TimedOut { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The job failed for good: it is a dead letter, or its next attempt would have come after the timeout.
    #[error("the job failed ({kind}): {error}")]
    Failed {
        /// The class of the error. [`ErrorKind::Error`] for a class that only another responder knows.
        kind: ErrorKind,
        /// The error and its sources, up to 4 KiB.
        error: String,
    },
    /// The job was cancelled before it was done.
    #[error("the job was cancelled")]
    Cancelled,
    /// The handler returned [`JobError::duplicate`](crate::JobError::duplicate): an earlier run completed the job. The
    /// result of that run is unknown.
    #[error("an earlier run has done the job, and its result is not known")]
    Duplicate,
    /// No reply came within the timeout. Attempts that have not started by then do not start any more.
    #[error("no reply within {timeout:?}: the job may have run, or no worker consumes its queue")]
    TimedOut {
        /// The timeout of the request.
        timeout: Duration,
    },
    /// The connection that waits for the reply was lost. The job may have run, and its reply cannot arrive any more.
    #[error("the connection was lost before the reply came: the job may have run")]
    Lost,
    /// No queue of that name is bound: no worker has declared it yet, or the name is misspelt.
    #[error("no queue {queue:?}: start its worker once, or check the name")]
    Unroutable {
        /// The queue the job was for.
        queue: String,
    },
    /// The reply is not the JSON of the expected type. The job is done.
    #[error("the reply is not the result that the job's type names: {reason}")]
    Undecodable {
        /// The fault, without the values of the reply.
        reason: String,
    },
    /// The broker handle already has `limit` requests that wait for their replies. Nothing was sent.
    #[error("{limit} requests wait for their replies already: nothing was sent")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The job was not published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}
