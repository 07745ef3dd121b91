//! The context of an attempt: what a handler can read and do beside its job.

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::SystemTime,
};

use tokio::{
    sync::{OwnedSemaphorePermit, SetOnce},
    time::Instant,
};

use crate::{
    attempt::{admission::Incoming, runtime::QueueRuntime, tracked::Tracked},
    job::JobId,
    limits::{circuit_breaker::CircuitState, keyed::KeyedPermit, limiter::UsedCircuits},
    message::{Message, header},
    names,
    publish::{header_value::HeaderValue, publisher::Publisher},
    time::at_unix_ms,
    topology::lane::Lane,
    trace::Trace,
};

/// The context of one attempt: the worker's state, the job's identity, its deadline, a publisher. Clones are cheap.
///
/// An attempt counts against its queue's concurrency until the last clone is dropped. So work that a handler leaves in
/// a task or a thread is counted if it holds a clone.
///
/// ```
/// use leveret::{Context, JobResult};
/// # struct Mail;
/// # impl Mail { async fn send(&self, _: &str) -> Result<(), std::io::Error> { Ok(()) } }
/// # struct SendEmail { to: String }
///
/// async fn send_email(job: SendEmail, ctx: Context<Mail>) -> JobResult {
///     tracing::info!(job_id = %ctx.job_id(), attempt = ctx.attempt(), of = ctx.max_attempts(), "sending");
///     Ok(ctx.state().send(&job.to).await?)
/// }
/// # let _ = send_email;
/// ```
///
/// A long-running handler can stop early when it is cancelled, and publish the next part of its work as another job:
///
/// ```
/// use leveret::{Context, JobResult};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Page(u32);
/// # impl leveret::Job for Page { const NAME: &'static str = "page"; const QUEUE: &'static str = "pages"; }
/// # async fn load(_: u32) {}
///
/// async fn load_pages(job: Page, ctx: Context<()>) -> JobResult {
///     tokio::select! {
///         () = load(job.0) => {}
///         () = ctx.cancelled() => return Err("stopped halfway".into()),
///     }
///     if job.0 < 99 {
///         ctx.publisher().publish(&Page(job.0 + 1)).await?;
///     }
///     Ok(())
/// }
/// # let _ = leveret::Worker::new(()).handle(load_pages);
/// ```
pub struct Context<S> {
    pub(super) inner: Arc<Inner<S>>,
}

pub(crate) struct Inner<S> {
    pub(crate) handlers: Arc<QueueRuntime<S>>,
    pub(crate) received: Arc<Incoming>,
    /// Read from the message on demand, because few handlers ask for it.
    pub(crate) job_id: OnceLock<JobId>,
    pub(crate) lane: Lane,
    pub(crate) max_attempts: u32,
    pub(crate) deadline: Instant,
    /// Set when this attempt must stop.
    pub(crate) overran: SetOnce<()>,
    /// `None` unless the job is tracked or a step of a workflow.
    pub(crate) tracked: Option<Arc<Tracked>>,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Slots of the limits that apply to the job.
    #[expect(dead_code, reason = "held until the last clone is dropped")]
    pub(crate) permits: Vec<KeyedPermit>,
    /// `None` for a job without limits.
    pub(crate) circuits: Option<Arc<UsedCircuits>>,
}

/// Stops one attempt. Unlike a clone of the context, it does not keep the attempt counted.
pub(crate) struct Canceller<S>(Weak<Inner<S>>);

impl<S> Canceller<S> {
    /// Signals to any code that still holds the context that the attempt's time is over.
    pub(crate) fn cancel(&self) {
        if let Some(inner) = self.0.upgrade() {
            // A second signal has no effect.
            drop(inner.overran.set(()));
        }
    }
}

impl<S> Context<S> {
    pub(crate) fn new(inner: Inner<S>) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Returns the worker's state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.inner.handlers.state
    }

    /// Returns the queue that delivered the job.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.inner.handlers.queue.name()
    }

    /// Returns the job's name, by its type, also for a message under an [alias](crate::HandlerOptions::alias). For an
    /// event, its topic.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.inner.handlers.queue.is_subscription() {
            return self.message().job_name().unwrap_or_default();
        }
        let found = self.inner.handlers.find(self.message().job_name());
        found.map_or("", |index| self.inner.handlers.routes[index].job)
    }

    /// Returns the text that tools show with the job ([`NewJob::label`](crate::NewJob::label)), up to 1 KiB.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.message().label()
    }

    /// Returns the property `correlation_id` ([`NewJob::correlation_id`](crate::NewJob::correlation_id)).
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.message().correlation_id()
    }

    /// Returns the value of a header, if it is UTF-8 text, a whole number or a boolean. A time is in milliseconds since
    /// the Unix epoch.
    ///
    /// ```
    /// use leveret::{Context, HeaderValue, JobResult, Next};
    ///
    /// /// Logs what came with each job.
    /// async fn log_origin(ctx: Context<()>, next: Next<()>) -> JobResult {
    ///     let tenant = match ctx.header("tenant") {
    ///         Some(HeaderValue::Text(tenant)) => tenant,
    ///         _ => "unknown".to_owned(),
    ///     };
    ///     tracing::info!(job = ctx.name(), tenant, label = ctx.label(), correlation_id = ctx.correlation_id(), "runs");
    ///     for (name, value) in ctx.headers() {
    ///         tracing::debug!(name, ?value, "header");
    ///     }
    ///     next.run(ctx).await
    /// }
    /// # let _ = leveret::Worker::new(()).middleware(log_origin);
    /// ```
    #[must_use]
    pub fn header(&self, name: &str) -> Option<HeaderValue> {
        HeaderValue::of(self.message(), name)
    }

    /// Returns the publisher's own headers, as [`header`](Self::header) reads them, without those of Leveret and the
    /// broker.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue)> {
        let own = self.message().header_names().filter(|name| names::header(name).is_ok());
        own.filter_map(|name| Some((name, self.header(name)?)))
    }

    /// Returns the job's id, which is the same for all attempts and copies.
    #[must_use]
    pub fn job_id(&self) -> &JobId {
        self.inner.job_id.get_or_init(|| self.inner.received.id().into())
    }

    /// Returns the number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.received.envelope.attempt
    }

    /// Returns the job's total number of attempts.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.inner.max_attempts
    }

    /// Returns the error of the previous attempt, up to 4 KiB; `None` for the first attempt.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.message().text(header::ERROR).filter(|_| self.attempt() > 1)
    }

    /// Returns whether the broker has delivered this very attempt before, to a worker that did not settle it.
    ///
    /// If `true`, the earlier delivery may have done the work: a handler that must not repeat its effect should check.
    /// If `false`, only a repeated publish or a repeated copy can have caused an earlier run.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.inner.received.redelivered
    }

    /// Returns the time of the first publish, if the message states it.
    #[must_use]
    pub fn enqueued_at(&self) -> Option<SystemTime> {
        self.inner.received.envelope.enqueued_at.map(at_unix_ms)
    }

    /// Returns the fire time of the schedule that published the job; `None` for other jobs. The job of a missed time may
    /// have been published later.
    #[must_use]
    pub fn fired_at(&self) -> Option<SystemTime> {
        let at = self.message().number(header::FIRED_AT)?.ok()?;
        u64::try_from(at).ok().map(at_unix_ms)
    }

    /// Returns when the worker drops this attempt.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.inner.deadline
    }

    /// Waits until the attempt must stop: its timeout or the drain timeout of a stopping worker has passed, or the job
    /// was cancelled ([`Publisher::cancel`]). A cancelled job whose handler returns an error is not retried.
    pub async fn cancelled(&self) {
        let cancelled = async {
            match &self.inner.tracked {
                Some(tracked) => *tracked.cancelled().wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.inner.handlers.stop.cancel.cancelled() => {}
            () = self.inner.overran.wait() => {}
            () = cancelled => {}
        }
    }

    /// Returns whether the attempt must stop, for handlers on the blocking pool to poll.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let cancelled = || self.inner.tracked.as_ref().is_some_and(|tracked| tracked.cancelled().initialized());
        self.inner.overran.initialized() || self.inner.handlers.stop.cancel.is_cancelled() || cancelled()
    }

    /// Reports the progress of a tracked job, from 0 to 1, with a note unless `note` is empty. Updates are published at
    /// most once a second: later ones wait, and the latest replaces the others. Has no effect for a job that is not
    /// tracked. A fraction below 0 or not finite counts as 0, a fraction above 1 as 1. A note is cut after 1,024 bytes.
    ///
    /// ```
    /// # use leveret::{Context, JobResult};
    /// # struct Pages(Vec<String>);
    /// # async fn print(_: &str) {}
    /// async fn print_all(job: Pages, ctx: Context<()>) -> JobResult {
    ///     let total = job.0.len();
    ///     for (number, page) in job.0.iter().enumerate() {
    ///         ctx.progress(number as f64 / total as f64, &format!("page {number} of {total}"));
    ///         print(page).await;
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = print_all;
    /// ```
    pub fn progress(&self, fraction: f64, note: &str) {
        if let Some(tracked) = &self.inner.tracked {
            tracked.progress(fraction, Some(note).filter(|note| !note.is_empty()));
        }
    }

    /// Returns the state of a [circuit](crate::CircuitBreaker) in this worker. A handler that can work without the
    /// service need not [require](crate::HandlerOptions::circuit) its circuit: it can react to an open circuit, and
    /// report failures with [`JobError::blame`](crate::JobError::blame). An unknown circuit is closed.
    ///
    /// ```
    /// use leveret::{Context, CircuitState, JobResult};
    /// # struct Quote; async fn ask() -> JobResult<u32> { Ok(1) } fn last_known() -> u32 { 1 }
    /// async fn quote(_job: Quote, ctx: Context<()>) -> JobResult<u32> {
    ///     match ctx.circuit("prices") {
    ///         CircuitState::Open => Ok(last_known()),
    ///         CircuitState::Closed | CircuitState::HalfOpen => ask().await.map_err(|error| error.blame(&["prices"])),
    ///     }
    /// }
    /// # let _ = quote;
    /// ```
    #[must_use]
    pub fn circuit(&self, name: &str) -> CircuitState {
        self.inner.handlers.dependencies.get(name).map_or(CircuitState::Closed, |breaker| breaker.state())
    }

    /// Records that this attempt does not use the service of a [circuit](crate::HandlerOptions::circuit) that its handler
    /// requires. So neither its success nor its error counts for the circuit, unless the error
    /// [blames](crate::JobError::blame) it. Without this, a job with nothing to send would count as a sign that the mail
    /// server works, and would close a half-open circuit.
    ///
    /// The next probe follows at once. A circuit that the handler does not require is ignored.
    ///
    /// ```
    /// use leveret::{Context, JobResult};
    /// # struct Reminder { mails: Vec<String> }
    /// # async fn send(_: &str) -> JobResult { Ok(()) }
    /// async fn remind(job: Reminder, ctx: Context<()>) -> JobResult {
    ///     if job.mails.is_empty() {
    ///         ctx.skip_circuit("smtp");
    ///     }
    ///     for mail in &job.mails {
    ///         send(mail).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = remind;
    /// ```
    pub fn skip_circuit(&self, name: &str) {
        if let Some(circuits) = &self.inner.circuits {
            circuits.skip(name);
        }
    }

    /// Returns a publisher for follow-up jobs, which stay in this job's trace.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        let publisher = self.inner.handlers.publisher.clone();
        match self.inner.received.trace.trace().or_else(|| Trace::of(self.message())) {
            Some(trace) => publisher.traced(trace),
            None => publisher,
        }
    }

    pub(crate) fn message(&self) -> &Message {
        &self.inner.received.message
    }

    /// Returns whether the attempt has already ended as a timeout.
    pub(crate) fn has_overrun(&self) -> bool {
        self.inner.overran.initialized()
    }

    pub(crate) fn canceller(&self) -> Canceller<S> {
        Canceller(Arc::downgrade(&self.inner))
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("job_id", &self.job_id())
            .field("attempt", &self.attempt())
            .field("counted", &self.inner.permit.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use tokio::sync::mpsc;

    use crate::{Broker, Context, HeaderValue, Job, JobResult, Worker, testing};

    #[derive(Serialize, Deserialize)]
    struct Fail;

    impl Job for Fail {
        const NAME: &'static str = "fail";
        const QUEUE: &'static str = "fails";
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_knows_the_error_of_the_one_before() {
        async fn fail(_: Fail, ctx: Context<mpsc::UnboundedSender<Option<String>>>) -> JobResult {
            ctx.state().send(ctx.last_error().map(str::to_owned)).unwrap();
            if ctx.attempt() < 3 { Err(format!("error {}", ctx.attempt()).into()) } else { Ok(()) }
        }
        let (sender, mut seen) = mpsc::unbounded_channel();
        let broker = Broker::memory();
        let running = testing::start(Worker::new(sender).handle(fail), &broker).await.unwrap();
        broker.publisher().publish(&Fail).await.unwrap();
        for expected in [None, Some("error 1"), Some("error 2")] {
            assert_eq!(seen.recv().await.unwrap().as_deref(), expected);
        }
        running.stop().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_reads_what_the_publisher_gave_the_job() {
        type Read = (String, Option<String>, Option<String>, Vec<(String, HeaderValue)>);

        async fn read(_: Fail, ctx: Context<mpsc::UnboundedSender<Read>>) -> JobResult {
            let headers = ctx.headers().map(|(name, value)| (name.to_owned(), value)).collect();
            let (label, correlation) = (ctx.label().map(str::to_owned), ctx.correlation_id().map(str::to_owned));
            assert_eq!((ctx.header("tenant"), ctx.header("none")), (Some("acme".into()), None));
            ctx.state().send((ctx.name().to_owned(), label, correlation, headers)).unwrap();
            Ok(())
        }
        let (sender, mut seen) = mpsc::unbounded_channel();
        let broker = Broker::memory();
        let running = testing::start(Worker::new(sender).handle(read), &broker).await.unwrap();
        let publish = broker.publisher().publish(&Fail).label("first").correlation_id("request-7");
        publish.header("tenant", "acme").header("urgent", true).header("pages", 3).await.unwrap();
        let (name, label, correlation, headers) = seen.recv().await.unwrap();
        assert_eq!(
            (name.as_str(), label.as_deref(), correlation.as_deref()),
            ("fail", Some("first"), Some("request-7"))
        );
        let own: [(String, HeaderValue); 3] =
            [("pages".into(), 3.into()), ("tenant".into(), "acme".into()), ("urgent".into(), true.into())];
        assert_eq!(headers, own);
        running.stop().await.unwrap();
    }
}
