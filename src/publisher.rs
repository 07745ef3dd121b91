//! Publishes jobs: with confirms and `mandatory`, so that `Ok` means that the job is on its queue.

mod header_value;
mod replay;

use std::{
    borrow::Cow,
    future::IntoFuture,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{StreamExt, stream};
use lapin::types::{AMQPValue, FieldTable};

pub use self::{header_value::HeaderValue, replay::Replay};
use crate::{
    broker::{Broker, SendError},
    delay::Wait,
    error::PublishError,
    job::{Job, JobId, is_valid_name},
    message::{COPY_HEADER_LIMIT, Message, header, integer, millis, text},
    topology::{Stream, Target},
    unique::{self, IfTaken, Unique, UniqueKeys},
};

/// Publishes jobs to their queues. Clones are cheap and share the connection.
///
/// Every publish waits for the broker's confirm; publishes of any number of tasks are pipelined on one channel, up to
/// the publish window of the [`Config`](crate::Config), and wait their turn beyond it.
///
/// ```no_run
/// use std::time::Duration;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct SendEmail { to: String }
/// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
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
    broker: Broker,
    trace: Option<Trace>,
    fail_fast: bool,
    unique_keys: Option<Arc<dyn UniqueKeys>>,
}

/// A W3C trace context to publish with.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) parent: String,
    pub(crate) state: Option<String>,
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
    /// blocked or away, instead of waiting for it up to the publish timeout.
    #[must_use]
    pub fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// Keeps the keys of unique jobs there; all publishers of such jobs need the same store. See [`Publish::unique`].
    #[must_use]
    pub fn unique_in(mut self, keys: Arc<dyn UniqueKeys>) -> Self {
        self.unique_keys = Some(keys);
        self
    }

    pub(crate) fn unique_keys(&self) -> Option<&dyn UniqueKeys> {
        self.unique_keys.as_deref()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.broker.now_ms()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.broker.config().publish_timeout
    }

    /// Publishes a job when awaited; set options before.
    pub fn publish<J: Job>(&self, job: &J) -> Publish {
        let body = serde_json::to_vec(job).map_err(PublishError::from);
        self.publish_body(J::NAME.into(), J::QUEUE.to_owned(), body)
    }

    /// Publishes a job whose type is not known here: by its name, its queue and its payload, which is to be JSON.
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
        self.publish_body(job.into(), queue.into(), Ok(payload.into()))
    }

    fn publish_body(&self, job: Cow<'static, str>, queue: String, body: Result<Vec<u8>, PublishError>) -> Publish {
        Publish {
            publisher: self.clone(),
            job,
            queue,
            body,
            id: None,
            due: Due::Now,
            expires: None,
            priority: None,
            label: None,
            track: false,
            unique: None,
            headers: Vec::new(),
        }
    }

    /// Publishes many jobs, pipelined, and tells the fate of each in their order.
    pub async fn publish_all<'a, J: Job + Sync>(
        &self,
        jobs: impl IntoIterator<Item = &'a J>,
    ) -> Vec<Result<JobId, PublishError>> {
        let window = usize::from(self.broker.config().publish_window).max(1);
        let publishes = jobs.into_iter().map(|job| self.publish(job).into_future());
        stream::iter(publishes).buffered(window).collect().await
    }

    /// Has a tracked job not run any more, wherever it is. Returns once the broker has confirmed it: workers that are
    /// there know at once, all others before they run a tracked job, for ten years.
    ///
    /// A job that waits, in its queue or for its time, ends as cancelled when a worker has it in hand. One that runs is
    /// told by [`Context::cancelled`](crate::Context::cancelled), and may be done all the same. Jobs that are not tracked
    /// run, and so does what bears the id later: the job's dead letter when it is replayed, or another job that is
    /// published more than a minute after, by the clocks of who publishes and who cancels.
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.cancel("order-17").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As a publish.
    pub async fn cancel(&self, job_id: &str) -> Result<(), PublishError> {
        require((1..=255).contains(&job_id.len()), "job id", job_id, "it must have 1 to 255 bytes")?;
        let id = JobId::from(job_id);
        let message = Message::new(CANCEL, &id, Vec::new(), self.broker.now_ms());
        self.send(CANCEL, Target::Stream(Stream::Cancelled), id, message).await.map(drop)
    }

    /// Sends and counts.
    pub(crate) async fn send(
        &self,
        job: &str,
        target: Target,
        id: JobId,
        message: Message,
    ) -> Result<JobId, PublishError> {
        let broker = &self.broker;
        let started = Instant::now();
        let sent = broker.send(&target, Box::new(message), self.fail_fast).await;
        let metrics = broker.metrics();
        metrics.published(target.queue(), job, outcome(&sent)).inc();
        metrics.confirm.observe(started.elapsed().as_secs_f64());
        let Err(error) = sent else { return Ok(id) };
        let (queue, timeout) = (target.queue().to_owned(), broker.config().publish_timeout);
        Err(match error {
            SendError::Returned => PublishError::Unroutable { queue },
            SendError::Nacked => PublishError::Nacked { queue },
            SendError::Refused(reason) => PublishError::Refused { queue, reason },
            SendError::Uncertain => PublishError::Uncertain { id },
            SendError::Blocked(reason) => PublishError::Blocked { reason },
            SendError::Unavailable(reason) => PublishError::Unavailable { timeout, reason },
            SendError::Closed => PublishError::Closed,
        })
    }
}

/// One publish and its options; awaiting it sends the job and waits for the confirm.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// # async fn doc(publisher: leveret::Publisher, job: impl leveret::Job) -> Result<(), leveret::PublishError> {
/// publisher.publish(&job).at(SystemTime::now() + Duration::from_secs(60)).expires(Duration::from_secs(3600)).await?;
/// publisher.publish(&job).id("order-17").header("tenant", "acme").queue("email-bulk").await?;
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// Dropped before it is done, the job may or may not be published.
#[derive(Debug)]
#[must_use = "a job is published when this is awaited"]
pub struct Publish {
    publisher: Publisher,
    job: Cow<'static, str>,
    queue: String,
    body: Result<Vec<u8>, PublishError>,
    id: Option<JobId>,
    due: Due,
    expires: Option<Duration>,
    priority: Option<u8>,
    label: Option<String>,
    track: bool,
    unique: Option<Box<Unique>>,
    headers: Vec<(String, HeaderValue)>,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Now,
    After(Duration),
    At(SystemTime),
}

impl Publish {
    /// Lets the job wait in the broker for this time; never shorter, and less than a second longer.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.due = Due::After(delay);
        self
    }

    /// Lets the job wait in the broker until this time; a time in the past means now.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.due = Due::At(time);
        self
    }

    /// Sets the priority, 0 to 31. Brokers before 4.0 have none, 4.0 to 4.2 two lanes (5 and above is high), later ones
    /// all; a job without one counts as 4.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Gives the job up, as a dead letter of kind `expired`, if it has not started within this time from now.
    pub fn expires(mut self, time_to_live: Duration) -> Self {
        self.expires = Some(time_to_live);
        self
    }

    /// Sets the job's id, 1 to 255 bytes; a UUIDv7 by default. Publish again with the same id after
    /// [`PublishError::Uncertain`].
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(JobId::from(id.into()));
        self
    }

    /// Has the job's worker tell its steps ([`event`](crate::event)), which costs four small publishes more, and lets the
    /// job be cancelled.
    pub fn track(mut self) -> Self {
        self.track = true;
        self
    }

    /// Publishes the job only if no other with this key and job name is waiting or running. The key is taken until the job
    /// has ended, at most for `time_to_live` from now, so that has to be longer than the job waits and runs. It needs a
    /// store ([`Publisher::unique_in`]), and tracks the job: its end is what frees the key. See [`unique`](crate::unique)
    /// for what this does not promise.
    pub fn unique(mut self, key: impl Into<String>, time_to_live: Duration) -> Self {
        self.unique = Some(Box::new(Unique { key: key.into(), time_to_live, if_taken: IfTaken::default() }));
        self.track()
    }

    /// What becomes of a unique job whose key is taken; it is refused by default. Set after [`unique`](Self::unique).
    pub fn if_taken(mut self, then: IfTaken) -> Self {
        if let Some(unique) = &mut self.unique {
            unique.if_taken = then;
        }
        self
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(crate) fn job(&self) -> &str {
        &self.job
    }

    /// Sets a text to be shown with the job, up to 1 KiB.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds a header of your own, which all copies of the job keep. Names that start with `leveret-` or `x-` are not
    /// yours.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Publishes to another queue than the job's own.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into();
        self
    }

    /// The headers that tell where the job comes from and whether its steps are told.
    fn add_told(&self, headers: &mut FieldTable) -> Result<(), PublishError> {
        if self.track {
            headers.insert(header::TRACK.into(), AMQPValue::Boolean(true));
        }
        if let Some(label) = &self.label {
            require(label.len() <= LONGEST_LABEL, "label", label, "it must have at most 1024 bytes")?;
            headers.insert(header::LABEL.into(), text(label));
        }
        if let Some(trace) = &self.publisher.trace {
            headers.insert(header::TRACEPARENT.into(), text(&trace.parent));
            if let Some(state) = &trace.state {
                headers.insert(header::TRACESTATE.into(), text(state));
            }
        }
        Ok(())
    }

    /// The message to send, checked against everything that could be refused later.
    pub(crate) fn into_message(self) -> Result<(JobId, Target, Message), PublishError> {
        let mut headers = FieldTable::default();
        self.add_told(&mut headers)?;
        let (broker, body) = (&self.publisher.broker, self.body?);
        let limit = broker.config().payload_limit;
        if body.len() > limit {
            return Err(PublishError::TooLarge { part: "payload", size: body.len(), limit });
        }
        require(is_valid_name(&self.job), "job name", &self.job, "it must be of the form [a-z0-9_.-]{1,128}")?;
        require((1..=255).contains(&self.queue.len()), "queue", &self.queue, "it must have 1 to 255 bytes")?;
        let id = self.id.unwrap_or_else(JobId::mint);
        require((1..=255).contains(&id.as_str().len()), "job id", id.as_str(), "it must have 1 to 255 bytes")?;
        let now = broker.now_ms();
        if let Some(time_to_live) = self.expires {
            let shown = format!("{time_to_live:?}");
            require(time_to_live < LONGEST_DELAY, "time to live", &shown, "it must be less than ten years")?;
            headers.insert(header::EXPIRES_AT.into(), integer(now.saturating_add(millis(time_to_live))));
        }
        for (name, value) in self.headers {
            let foreign =
                !name.is_empty() && name.len() <= 255 && !name.starts_with("leveret-") && !name.starts_with("x-");
            require(
                foreign,
                "header",
                &name,
                "its name must have 1 to 255 bytes and start with neither leveret- nor x-",
            )?;
            headers.insert(name.into(), value.into_amqp());
        }
        let wait = match self.due {
            Due::Now => Duration::ZERO,
            Due::After(delay) => delay,
            Due::At(time) => {
                let at = millis(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
                Duration::from_millis(at.saturating_sub(now))
            }
        };
        if !wait.is_zero() {
            require(wait < LONGEST_DELAY, "delay", &format!("{wait:?}"), "it must be less than ten years")?;
            headers.insert(header::NOT_BEFORE.into(), integer(now + millis(wait)));
        }
        let mut message = Message::with_headers(&self.job, &id, body, now, headers);
        if let Some(priority) = self.priority {
            require(priority <= 31, "priority", &priority.to_string(), "it must be 0 to 31")?;
            message.properties = message.properties.with_priority(priority);
        }
        let size = message.header_size();
        if size > COPY_HEADER_LIMIT {
            return Err(PublishError::TooLarge { part: "headers", size, limit: COPY_HEADER_LIMIT });
        }
        Ok((id, Target::after(&self.queue, Wait::at_least(wait)), message))
    }
}

/// The property `type` of a cancellation.
const CANCEL: &str = "leveret.cancel";
const LONGEST_LABEL: usize = 1024;
/// Workers take a time further ahead for a mistake.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

fn require(holds: bool, what: &'static str, value: &str, reason: &'static str) -> Result<(), PublishError> {
    if holds { Ok(()) } else { Err(PublishError::Invalid { what, value: value.to_owned(), reason }) }
}

impl IntoFuture for Publish {
    type Output = Result<JobId, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        if let Some(unique) = self.unique.take() {
            return Box::pin(unique::publish(self, *unique));
        }
        // An `async fn` of its own would keep all of this twice.
        Box::pin(async move {
            let (publisher, job) = (self.publisher.clone(), self.job.clone());
            let (id, target, message) = self.into_message()?;
            publisher.send(&job, target, id, message).await
        })
    }
}

/// The value of the metric's label.
fn outcome(sent: &Result<(), SendError>) -> &'static str {
    match sent {
        Ok(()) => "confirmed",
        Err(SendError::Returned) => "returned",
        Err(SendError::Nacked | SendError::Refused(_)) => "nacked",
        Err(SendError::Uncertain) => "uncertain",
        Err(SendError::Blocked(_) | SendError::Unavailable(_) | SendError::Closed) => "unsent",
    }
}
