//! What a handler may know and do besides its job.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, SetOnce},
    time::Instant,
};

use crate::{
    attempt::{admission::Incoming, runtime::QueueRuntime, tracked::Tracked},
    limits::{circuit_breaker::CircuitState, keyed::KeyedPermit},
    message::{Message, header},
    names,
    publish::{header_value::HeaderValue, publisher::Publisher},
    trace::Trace,
};

/// One attempt's surroundings: the worker's state, the job's identity, its deadline, a publisher. Clones are cheap.
///
/// An attempt counts against its queue's concurrency until the last clone is dropped, so work that a handler leaves
/// behind in a task or a thread with its context is still counted.
///
/// ```
/// use leveret::{Context, JobResult};
/// # struct Mail;
/// # impl Mail { async fn send(&self, _: &str) -> Result<(), std::io::Error> { Ok(()) } }
/// # struct SendEmail { to: String }
///
/// async fn send_email(job: SendEmail, ctx: Context<Mail>) -> JobResult {
///     tracing::info!(job_id = ctx.job_id(), attempt = ctx.attempt(), of = ctx.max_attempts(), "sending");
///     Ok(ctx.state().send(&job.to).await?)
/// }
/// # let _ = send_email;
/// ```
///
/// A long attempt can stop in good order, and leave the next step to another job:
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
    inner: Arc<Inner<S>>,
}

pub(crate) struct Inner<S> {
    pub(crate) handlers: Arc<QueueRuntime<S>>,
    pub(crate) received: Arc<Incoming>,
    pub(crate) max_attempts: u32,
    pub(crate) deadline: Instant,
    /// Set when this attempt alone is to stop.
    pub(crate) overran: SetOnce<()>,
    /// None unless the job's steps are told.
    pub(crate) tracked: Option<Arc<Tracked>>,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Its places among those that are limited.
    #[expect(dead_code, reason = "held until the last clone is dropped")]
    pub(crate) places: Vec<KeyedPermit>,
}

/// What stops one attempt. It does not keep the attempt counted, as a clone of its context would.
pub(crate) struct Canceller<S>(Weak<Inner<S>>);

impl<S> Canceller<S> {
    /// Tells whoever still works on the attempt, if there is anybody, that its time is over.
    pub(crate) fn cancel(&self) {
        if let Some(inner) = self.0.upgrade() {
            // Told twice is told.
            drop(inner.overran.set(()));
        }
    }
}

impl<S> Context<S> {
    pub(crate) fn new(inner: Inner<S>) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The worker's state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.inner.handlers.state
    }

    /// The queue that the job was taken from.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.inner.handlers.queue.name()
    }

    /// The job's name, by its type: also for a message that came under an [alias](crate::HandlerOptions::alias). For an
    /// event, its topic.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.inner.handlers.queue.is_subscription() {
            return self.message().job_name().unwrap_or_default();
        }
        let found = self.inner.handlers.find(self.message().job_name());
        found.map_or("", |index| self.inner.handlers.routes[index].job)
    }

    /// The text that is shown with the job ([`Publish::label`](crate::Publish::label)), up to 1 KiB.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.message().label()
    }

    /// The property `correlation_id` ([`Publish::correlation_id`](crate::Publish::correlation_id)).
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.message().correlation_id()
    }

    /// The value of a header, if it is UTF-8 text, a whole number or a boolean. A time is in milliseconds since the Unix
    /// epoch.
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

    /// The publisher's own headers, as [`header`](Self::header) reads them: without those of Leveret and of the broker.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue)> {
        let own = self.message().header_names().filter(|name| names::header(name).is_ok());
        own.filter_map(|name| Some((name, self.header(name)?)))
    }

    /// The job's id: the same for all attempts and copies.
    #[must_use]
    pub fn job_id(&self) -> &str {
        self.inner.received.id()
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.received.envelope.attempt
    }

    /// How many attempts the job has in all.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.inner.max_attempts
    }

    /// The error of the attempt before this one, up to 4 KiB; none for the first attempt.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.message().text(header::ERROR).filter(|_| self.attempt() > 1)
    }

    /// Tells whether the broker has handed this very attempt out before, to a worker that did not settle it.
    ///
    /// Where it is `true`, the attempt may have done its work before: a handler whose effect must not be repeated has
    /// reason to look. Where it is `false`, only a publisher or a copy that was repeated can have led to an earlier run.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.inner.received.redelivered
    }

    /// When the job was first published, as time since the Unix epoch, if the publisher said so.
    #[must_use]
    pub fn enqueued_at(&self) -> Option<Duration> {
        self.inner.received.envelope.enqueued_at.map(Duration::from_millis)
    }

    /// For a job that a schedule published: at which of its times, as time since the Unix epoch. It may have been caught up
    /// with later.
    #[must_use]
    pub fn fired_at(&self) -> Option<Duration> {
        let at = self.message().number(header::FIRED_AT)?.ok()?;
        u64::try_from(at).ok().map(Duration::from_millis)
    }

    /// When this attempt is cut off.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.inner.deadline
    }

    /// Waits until the attempt is to stop: its timeout is over, the drain deadline of a stopping worker, or somebody has
    /// cancelled the job ([`Publisher::cancel`]). In the last case an error is the job's end: it is not tried again.
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

    /// Tells whether the attempt is to stop, for handlers on the blocking pool to ask now and then.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let cancelled = || self.inner.tracked.as_ref().is_some_and(|tracked| tracked.cancelled().initialized());
        self.inner.overran.initialized() || self.inner.handlers.stop.cancel.is_cancelled() || cancelled()
    }

    /// Tells how far a tracked job is, from 0 to 1, and in words if `note` is not empty. At most once a second: what comes
    /// sooner waits, and the latest counts. It does nothing for a job that is not tracked.
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

    pub(crate) fn tracked(&self) -> Option<Arc<Tracked>> {
        self.inner.tracked.clone()
    }

    /// What the worker knows of a [dependency](crate::CircuitBreaker): a handler that does not
    /// [need](crate::HandlerOptions::circuit) it to be up may answer otherwise while it is not. It tells of its failures with
    /// [`JobError::blame`](crate::JobError::blame). One that nobody has named is up.
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

    /// A publisher for follow-up jobs, which stay in this job's trace.
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

    /// Whether its verdict has been given already, for being too slow.
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
