//! The error of a publish.

use std::time::Duration;

use crate::{error::BoxError, job::JobId};

/// The reason why a publish was not confirmed.
///
/// Only [`Uncertain`](Self::Uncertain) leaves open whether the job is on the queue: publishing it again with the same
/// id may duplicate it. Every other error means that the job is not on the queue.
///
/// ```
/// # use leveret::PublishError;
/// fn may_be_published(error: &PublishError) -> bool {
///     matches!(error, PublishError::Uncertain { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No queue of that name is bound: no worker has declared it yet, or the name is misspelt. Start the worker once, or
    /// correct the name.
    #[error("no queue {queue:?}: start its worker once, or check the name")]
    Unroutable {
        /// The queue the job was for.
        queue: String,
    },
    /// The broker refused the job: a policy limits the queue's length, or the queue has no leader, as for a moment
    /// after its declaration. Publish it again later.
    #[error("queue {queue:?} refused the job: a length limit, or a queue that is not available")]
    Nacked {
        /// The queue the job was for.
        queue: String,
    },
    /// The broker closed the channel because of this publish: no write permission, a missing exchange, or a payload
    /// over the broker's limit (16 MiB from RabbitMQ 4.0 on). Fix the named cause; the same publish would be refused again.
    #[error("the broker refused a publish for queue {queue:?}: {reason}")]
    Refused {
        /// The queue the job was for.
        queue: String,
        /// The broker's own text.
        reason: String,
    },
    /// The connection was lost, or the timeout passed, between sending and the confirm. Publish the job again with the same
    /// id.
    #[error("job {id} was sent but not confirmed: it may be on the queue; publish it again with the same id")]
    Uncertain {
        /// The job's id, for publishing it again.
        id: JobId,
    },
    /// The broker accepts no publishes now (memory or disk alarm). Nothing was sent: publish the job again later.
    #[error("the broker is blocked ({reason}): nothing was sent")]
    Blocked {
        /// The broker's own text.
        reason: String,
    },
    /// No connection within the publish timeout. Nothing was sent: publish the job again later.
    #[error("no connection to the broker within {timeout:?} ({reason}): nothing was sent")]
    Unavailable {
        /// The publish timeout.
        timeout: Duration,
        /// The error of the last connection attempt.
        reason: String,
    },
    /// The payload, or the headers, exceed the limit. Nothing was sent. Keep large data elsewhere and publish its address.
    #[error("the {part} of the job is {size} bytes, more than the limit of {limit}: nothing was sent")]
    TooLarge {
        /// `payload` or `headers`.
        part: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A value that cannot be encoded on the wire. Correct it by the rule in the text.
    #[error("{what} {value:?} cannot be published: {reason}")]
    Invalid {
        /// The kind of value: the job id, the job name, the queue, a header.
        what: &'static str,
        /// The value.
        value: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Another job has the unique key of this one. Nothing was sent, and usually nothing needs to be.
    #[error("job {id} already has the unique key {key:?}: nothing was sent")]
    NotUnique {
        /// The key.
        key: String,
        /// The job that has the key.
        id: JobId,
    },
    /// The store of unique keys failed. Nothing was sent: publish the job again later.
    #[error("the store of unique keys failed: nothing was sent")]
    UniqueKeys(#[source] BoxError),
    /// The job does not serialise to JSON. Nothing was sent.
    #[error("the payload of job {job:?} does not serialise: {reason}")]
    Encode {
        /// The job's name.
        job: String,
        /// The error of the serialisation.
        reason: String,
    },
    /// The broker refuses the subscription to the results of tracked jobs. Nothing was sent.
    #[error("cannot subscribe to the results of tracked jobs: nothing was sent: {reason}")]
    Results {
        /// The broker's own text.
        reason: String,
    },
    /// The broker handle was closed. Publish on a new handle.
    #[error("the broker handle is closed: nothing was sent")]
    Closed,
}
