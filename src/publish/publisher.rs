//! Publishes jobs with confirms and `mandatory`, so that `Ok` means that the job is on its queue.

use std::{
    borrow::Cow,
    future::IntoFuture,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use crate::publish::{builder::Publish, draft::accept, new_job::NewJob};
use crate::{
    broker::Broker,
    error::PublishError,
    job::JobId,
    message::{Message, header},
    names,
    publish::unique::{self, UniqueKeys},
    topology::{Stream, Target},
    trace::{Trace, TraceSpan},
    transport::SendError,
};

/// Publishes jobs to their queues. Clones are cheap and share the connection.
///
/// Every publish waits for the broker's confirm. Publishes of any number of tasks are pipelined on one channel, up to
/// the publish window of the [`Config`](crate::Config). Further publishes wait.
///
/// ```no_run
/// use std::time::Duration;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "email.send", queue = "email")]
/// # struct SendEmail { to: String }
///
/// # async fn doc(broker: leveret::Broker) -> Result<(), leveret::PublishError> {
/// let publisher = broker.publisher();
/// let job = SendEmail { to: "ada@example.com".into() };
/// publisher.publish(&job).await?;
/// publisher.publish(&job).delay(Duration::from_secs(3600)).priority(5).id("welcome-ada").await?;
///
/// let many: Vec<SendEmail> = (0..100).map(|n| SendEmail { to: format!("reader-{n}@example.com") }).collect();
/// for result in publisher.fail_fast().publish_all(&many).await {
///     result?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Publisher {
    pub(super) broker: Broker,
    pub(super) trace: Option<Trace>,
    pub(super) fail_fast: bool,
    pub(super) unique_keys: Option<Arc<dyn UniqueKeys>>,
}

impl Broker {
    /// Returns a publisher on this broker; cheap.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.clone())
    }
}

impl Publisher {
    pub(crate) fn new(broker: Broker) -> Self {
        Self { broker, trace: None, fail_fast: false, unique_keys: None }
    }

    pub(crate) fn traced(mut self, trace: Trace) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Makes publishes fail at once with [`PublishError::Blocked`] or [`PublishError::Unavailable`] while the broker is
    /// blocked or unreachable. Without it, they wait up to the publish timeout.
    #[must_use]
    pub fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// Sets the store for the keys of unique jobs. All publishers of such jobs need the same store. See
    /// [`NewJob::unique`].
    #[must_use]
    pub fn unique_in(mut self, keys: Arc<dyn UniqueKeys>) -> Self {
        self.unique_keys = Some(keys);
        self
    }

    pub(crate) fn unique_keys(&self) -> Option<&dyn UniqueKeys> {
        self.unique_keys.as_deref()
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.broker.config().publish_timeout
    }

    /// Publishes a job when awaited; set options before. It takes a reference to a [`Job`](crate::Job), or a
    /// [`NewJob`].
    pub fn publish(&self, job: impl Into<NewJob>) -> Publish {
        Publish { publisher: self.clone(), new: job.into() }
    }

    /// Publishes a job without its type, like [`NewJob::raw`].
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.publish_raw("email.send", "email", r#"{"to": "ada@example.com"}"#).track().await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_raw(
        &self,
        job: impl Into<Cow<'static, str>>,
        queue: impl Into<String>,
        payload: impl Into<Vec<u8>>,
    ) -> Publish {
        self.publish(NewJob::raw(job, queue, payload))
    }

    /// Publishes many jobs, pipelined, and returns the result of each in their order. It takes references to jobs, or
    /// [`NewJob`]s.
    pub async fn publish_all<N: Into<NewJob>>(
        &self,
        jobs: impl IntoIterator<Item = N>,
    ) -> Vec<Result<JobId, PublishError>> {
        let window = usize::from(self.broker.config().publish_window.get());
        let publishes = jobs.into_iter().map(|job| self.publish(job).into_future());
        stream::iter(publishes).buffered(window).collect().await
    }

    /// Publishes a job, and waits for the confirm.
    pub(super) async fn publish_now(&self, new: NewJob) -> Result<JobId, PublishError> {
        if let Some(unique) = new.options.unique.clone() {
            // Boxed, because few publishes need so large a future.
            return Box::pin(unique::publish(self, *unique, new)).await;
        }
        let job = new.name.clone();
        let (id, target, message) = new.into_message(self.broker.config().payload_limit, self.now_ms())?;
        self.send_job(&job, target, id, (message, false)).await
    }

    /// Checks all that is known before a publish.
    #[cfg(feature = "cron")]
    pub(crate) fn check(&self, new: NewJob) -> Result<(), PublishError> {
        if let Some(unique) = &new.options.unique {
            unique.store(self)?;
        }
        new.into_message(self.broker.config().payload_limit, self.now_ms()).map(drop)
    }

    /// Cancels a tracked job, wherever it is.
    ///
    /// Returns once the broker has confirmed the cancellation. Running workers see it at once, and all others before
    /// they run a tracked job, for ten years.
    ///
    /// A waiting or delayed job ends as cancelled when a worker receives it. A running handler is notified by
    /// [`Context::cancelled`](crate::Context::cancelled); the job may still succeed. Jobs that are not tracked run. So
    /// does a later job with the same id: a replay of the dead letter, or another job that is published more than a
    /// minute later, by the clocks of publisher and canceller.
    ///
    /// The key of a [unique](NewJob::unique) job is free when this returns, if this publisher has the store of the
    /// keys ([`unique_in`](Self::unique_in)). If the store is unreachable, the cancellation stands, a warning is
    /// logged, and the key becomes free when it expires.
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.cancel("order-17").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The same as for a publish.
    pub async fn cancel(&self, job_id: impl Into<JobId>) -> Result<(), PublishError> {
        let job_id = job_id.into();
        self.cancel_only(&job_id).await?;
        if let Some(keys) = self.unique_keys()
            && let Err(error) = keys.free_all(&job_id).await
        {
            tracing::warn!(
                error,
                job_id = job_id.as_str(),
                "cannot free the unique key of a cancelled job: it stays taken until it expires"
            );
        }
        Ok(())
    }

    /// Cancels a job without freeing its unique key.
    pub(crate) async fn cancel_only(&self, id: &JobId) -> Result<(), PublishError> {
        accept(names::id, "job id", id)?;
        let message = Message::new(CANCEL, id, Vec::new(), self.broker.now_ms());
        self.send(CANCEL, Target::Stream(Stream::Cancelled), id.clone(), (message, TraceSpan::none())).await.map(drop)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.broker.now_ms()
    }

    /// Sends a job, in the trace of the message, or else of the caller, or else of the publisher, if there is one. A
    /// trace in the message stays as it is. If the message `is_copy`, it is replaced with that of this publish.
    pub(crate) fn send_job(
        &self,
        job: &str,
        target: Target,
        id: JobId,
        (mut message, is_copy): (Message, bool),
    ) -> impl Future<Output = Result<JobId, PublishError>> {
        let (own, has_trace) = (self.trace.as_ref(), message.header(header::TRACEPARENT).is_some());
        let span = TraceSpan::publish(&self.broker, (job, target.queue()), &message, own);
        let trace = span.trace().filter(|_| is_copy || !has_trace);
        if let Some(trace) = trace.as_ref().or(own.filter(|_| !has_trace)) {
            trace.write(&mut message);
        }
        self.send(job, target, id, (message, span))
    }

    /// Sends a message and counts the result.
    pub(crate) async fn send(
        &self,
        job: &str,
        target: Target,
        id: JobId,
        (message, span): (Message, TraceSpan),
    ) -> Result<JobId, PublishError> {
        let broker = &self.broker;
        let started = Instant::now();
        let sent = span.within(broker.send(&target, Box::new(message), self.fail_fast)).await;
        let metrics = broker.metrics();
        let outcome = outcome(&sent);
        metrics.published(target.queue(), job, outcome).inc();
        metrics.confirm.observe(started.elapsed().as_secs_f64());
        let Err(error) = sent else { return Ok(id) };
        let error = failure(error, target.queue(), id, broker.config().publish_timeout);
        span.not_published(outcome, &error);
        Err(error)
    }
}

/// The property `type` of a cancellation.
const CANCEL: &str = "leveret.cancel";

/// Returns the error of a publish to `queue` that was not confirmed.
pub(super) fn failure(error: SendError, queue: &str, id: JobId, timeout: Duration) -> PublishError {
    let queue = queue.to_owned();
    match error {
        SendError::Returned => PublishError::Unroutable { queue },
        SendError::Nacked => PublishError::Nacked { queue },
        SendError::Refused(reason) => PublishError::Refused { queue, reason },
        SendError::Uncertain => PublishError::Uncertain { id },
        SendError::Blocked(reason) => PublishError::Blocked { reason },
        SendError::Unavailable(reason) => PublishError::Unavailable { timeout, reason },
        SendError::Closed => PublishError::Closed,
    }
}

/// Returns the value of the metric's label `outcome`.
pub(super) fn outcome(sent: &Result<(), SendError>) -> &'static str {
    match sent {
        Ok(()) => "confirmed",
        Err(SendError::Returned) => "returned",
        Err(SendError::Nacked | SendError::Refused(_)) => "nacked",
        Err(SendError::Uncertain) => "uncertain",
        Err(SendError::Blocked(_) | SendError::Unavailable(_) | SendError::Closed) => "unsent",
    }
}
