//! A published job whose result is awaited.

use std::{fmt, future::IntoFuture, pin::Pin};

use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::publish::{builder::Publish, publisher::Publisher, unique::IfTaken};
use crate::{
    error::PublishError,
    job::JobId,
    message::{origin::digest_of, undecoded},
    tracking::{results::ResultWaiter, status_update::Transition},
};

/// One publish of a tracked job. Awaiting it sends the job, waits for the confirm, and returns a handle for the result.
/// See [`Publish::with_result`].
///
/// Before it publishes, it subscribes to the last status updates of all tracked jobs, once for all publishers of a broker
/// handle. The user of the broker needs the rights for that: to configure, write and read `leveret.v1.results.*`, and to
/// read `leveret.v1.events`.
///
/// # Errors
///
/// As for any publish. [`PublishError::Results`] if the broker refuses the subscription. [`PublishError::Invalid`] for
/// [`IfTaken::Existing`], because the result of another job cannot be awaited.
///
/// # Cancel safety
///
/// If it is dropped before it completes, the job may or may not be published.
#[derive(Debug)]
#[must_use = "a job is published when this is awaited"]
pub struct PublishWithResult(pub(super) Publish);

impl IntoFuture for PublishWithResult {
    type Output = Result<PublishedJob, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Publish { publisher, mut new } = self.0;
            if new.options.if_taken == Some(IfTaken::Existing) {
                let reason = "the result of another job cannot be awaited: publish it without with_result";
                return Err(PublishError::Invalid { what: "if_taken", value: "Existing".to_owned(), reason });
            }
            let id = new.identify();
            let waiter = subscribe(&publisher, &id, &digest_of(new.origin().unwrap_or_default())).await?;
            publisher.publish_now(new).await?;
            Ok(PublishedJob { id, waiter })
        })
    }
}

/// Subscribes to the end of a job, within the publish timeout.
async fn subscribe(publisher: &Publisher, id: &JobId, origin: &str) -> Result<ResultWaiter, PublishError> {
    let (broker, limit) = (&publisher.broker, publisher.timeout());
    if publisher.fail_fast
        && let Some(reason) = broker.transport().disconnected().await
    {
        return Err(PublishError::Unavailable { timeout: limit, reason });
    }
    match timeout(limit, broker.results().wait_for(broker.transport(), id.as_str(), origin)).await {
        Ok(subscribed) => subscribed.map_err(|reason| PublishError::Results { reason }),
        Err(_) => {
            let reason = broker.trouble().unwrap_or("the broker does not answer").to_owned();
            Err(PublishError::Unavailable { timeout: limit, reason })
        }
    }
}

/// A published job, and the wait for its result. Dropping it ends the wait and not the job.
///
/// The wait requires the broker handle: it ends with [`ResultError::Unknown`] once the last clone of the handle is dropped.
///
/// ```
/// use std::time::Duration;
/// use leveret::{Broker, Context, JobResult, ResultError, Worker, testing};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "square", queue = "numbers")] struct Square(u64);
///
/// async fn square(job: Square, _: Context<()>) -> JobResult<u64> {
///     Ok(job.0.checked_mul(job.0).ok_or("too large")?)
/// }
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::memory();
/// let running = testing::start(Worker::new(()).handle(square), &broker).await?;
/// let mut job = broker.publisher().publish(&Square(7)).with_result().await?;
/// let squared: u64 = tokio::time::timeout(Duration::from_secs(10), job.result()).await??;
/// assert_eq!(squared, 49);
/// # running.stop().await?;
/// # Ok(()) }
/// ```
pub struct PublishedJob {
    id: JobId,
    waiter: ResultWaiter,
}

impl PublishedJob {
    /// Returns the job's id.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Waits for the end of the job, and returns the result of its handler. A handler without a result has `()`.
    ///
    /// It waits without a limit: for delays, retries, and workers that do not run. Wrap it into
    /// [`tokio::time::timeout`]. It also waits for a job whose end no worker reports: the broker dead-lettered it by
    /// itself, or the worker has no permission for status updates.
    ///
    /// # Errors
    ///
    /// [`ResultError::Dead`] and [`ResultError::Cancelled`] for a job that ended without success.
    /// [`ResultError::TooLarge`], [`ResultError::Duplicate`] and [`ResultError::Decode`] for one that succeeded, and
    /// whose result is not available. [`ResultError::Unknown`] after a lost connection.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped: another call waits on. Each later call returns the same end.
    pub async fn result<T: DeserializeOwned>(&mut self) -> Result<T, ResultError> {
        let id = self.id.clone();
        match self.waiter.end().await {
            Some(Transition::Succeeded { too_large: Some(bytes), .. }) => Err(ResultError::TooLarge { id, bytes }),
            Some(Transition::Succeeded { result, .. }) => {
                let result = result.unwrap_or_default();
                T::deserialize(&result).map_err(|error| {
                    let reason = undecoded::reason(&error, result.to_string().as_bytes());
                    ResultError::Decode { id, reason }
                })
            }
            Some(Transition::Duplicate) => {
                serde_json::from_value(serde_json::Value::Null).map_err(|_| ResultError::Duplicate { id })
            }
            Some(Transition::Dead { kind, error }) => Err(ResultError::Dead { id, kind, error }),
            Some(Transition::Cancelled) => Err(ResultError::Cancelled { id }),
            // The other steps end no job.
            Some(_) | None => Err(ResultError::Unknown { id }),
        }
    }
}

impl fmt::Debug for PublishedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishedJob").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The reason why the result of a published job is not available.
///
/// ```
/// # use leveret::ResultError;
/// fn may_have_run(error: &ResultError) -> bool {
///     !matches!(error, ResultError::Dead { .. } | ResultError::Cancelled { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The job was dead-lettered.
    #[error("job {id} was dead-lettered ({kind}): {error}")]
    Dead {
        /// The job's id.
        id: JobId,
        /// The class of the error, as [`ErrorKind`](crate::ErrorKind) names it.
        kind: String,
        /// The error and its sources.
        error: String,
    },
    /// The job was cancelled before it was done.
    #[error("job {id} was cancelled")]
    Cancelled {
        /// The job's id.
        id: JobId,
    },
    /// The job succeeded, and its result is larger than the 64 KiB that a status update can have.
    #[error("job {id} succeeded; its result of {bytes} bytes is larger than 64 KiB: store it elsewhere in the handler")]
    TooLarge {
        /// The job's id.
        id: JobId,
        /// The size of the result, as JSON.
        bytes: u64,
    },
    /// An earlier run of the job had succeeded, and its result is not known.
    #[error("job {id} had succeeded in an earlier run, whose result is not known")]
    Duplicate {
        /// The job's id.
        id: JobId,
    },
    /// The job succeeded, and its result is not of the requested type.
    #[error("job {id} succeeded; its result does not decode: {reason}")]
    Decode {
        /// The job's id.
        id: JobId,
        /// The error of the decoder, without values of the result.
        reason: String,
    },
    /// The connection was lost before the end of the job was known. The job may run, or may have ended meanwhile.
    #[error(
        "the connection was lost before the end of job {id} was known: it may have run; see its status in the store"
    )]
    Unknown {
        /// The job's id.
        id: JobId,
    },
}
