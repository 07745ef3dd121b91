//! One publish: its options, and the message built from them.

use std::{
    borrow::Cow,
    future::IntoFuture,
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lapin::types::{AMQPValue, FieldTable};
use uuid::Uuid;

use crate::publish::{header_value::HeaderValue, publisher::Publisher};
use crate::{
    error::PublishError,
    job::JobId,
    message::{COPY_HEADER_LIMIT, LONGEST_LABEL, Message, header, integer, millis, short, text},
    names,
    publish::unique::{self, IfTaken, Unique},
    topology::{Target, delay::Wait, lane::Lane},
};

/// The longest delay. Workers treat a time further ahead as a mistake.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub(super) fn since_epoch(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// One publish and its options. Awaiting it sends the job and waits for the confirm.
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
/// If it is dropped before it completes, the job may or may not be published.
#[derive(Debug)]
#[must_use = "a job is published when this is awaited"]
pub struct Publish {
    publisher: Publisher,
    job: Cow<'static, str>,
    queue: String,
    /// Whether the queue has lanes; the priority then selects the lane.
    lanes: bool,
    body: Result<Vec<u8>, PublishError>,
    id: Option<JobId>,
    due: Due,
    expires: Option<Duration>,
    priority: Option<u8>,
    label: Option<String>,
    correlation_id: Option<String>,
    enqueued_at: Option<SystemTime>,
    /// For a tracked job, the value that distinguishes it from others with the same id.
    origin: Option<String>,
    unique: Option<Box<Unique>>,
    fired_at: Option<u64>,
    headers: Vec<(String, HeaderValue)>,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Now,
    After(Duration),
    At(SystemTime),
}

impl Publish {
    pub(super) fn new(
        publisher: &Publisher,
        job: Cow<'static, str>,
        queue: String,
        lanes: bool,
        body: Result<Vec<u8>, PublishError>,
    ) -> Self {
        Self {
            publisher: publisher.clone(),
            job,
            queue,
            lanes,
            body,
            id: None,
            due: Due::Now,
            expires: None,
            priority: None,
            label: None,
            correlation_id: None,
            enqueued_at: None,
            origin: None,
            unique: None,
            fired_at: None,
            headers: Vec::new(),
        }
    }

    /// Delays the job in the broker for this time; never shorter, and less than a second longer.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.due = Due::After(delay);
        self
    }

    /// Delays the job in the broker until this time; a time in the past means now.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.due = Due::At(time);
        self
    }

    /// Sets the priority, 0 to 31. Brokers before 4.0 have none, 4.0 to 4.2 have two (5 and above is high), later ones
    /// have all. A job without a priority counts as 4.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Dead-letters the job with the kind `expired` if it has not started within this time from now. The time must be
    /// longer than the job's delay.
    pub fn expires(mut self, time_to_live: Duration) -> Self {
        self.expires = Some(time_to_live);
        self
    }

    /// Sets the job's id, 1 to 255 bytes; a UUIDv7 by default. Use the same id for another publish after
    /// [`PublishError::Uncertain`].
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(JobId::from(id.into()));
        self
    }

    /// Makes the job's worker publish status updates ([`status_update`](crate::tracking::status_update)), and allows
    /// the job to be cancelled. It costs four more small publishes.
    pub fn track(mut self) -> Self {
        self.origin.get_or_insert_with(|| Uuid::new_v4().simple().to_string());
        self
    }

    /// Returns the value that distinguishes a tracked job from others with the same id, for a
    /// [`StatusUpdate`](crate::tracking::status_update::StatusUpdate::origin). Returns `None` for a job that is not
    /// tracked. The value is random, so a publisher that knows only a job's id cannot publish a message as that job.
    ///
    /// ```
    /// # fn doc(publisher: &leveret::Publisher) {
    /// let publish = publisher.publish_raw("email.send", "email", "{}").track();
    /// assert_eq!(publish.origin().map(str::len), Some(32));
    /// # }
    /// ```
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Publishes the job only if no other job with this key and job name is waiting or running.
    ///
    /// The key is taken until the job has ended, and at most for `time_to_live` from now, so `time_to_live` must exceed
    /// the job's wait and run. It requires a store ([`Publisher::unique_in`]) and a key of at most 1 KiB. It tracks the
    /// job, because the end of a tracked job frees the key. See [`unique`](crate::publish::unique) for what it does not
    /// promise.
    pub fn unique(mut self, key: impl Into<String>, time_to_live: Duration) -> Self {
        self.unique = Some(Box::new(Unique { key: key.into(), time_to_live, if_taken: IfTaken::default() }));
        self.track()
    }

    /// Sets what happens to a unique job whose key is taken; it is refused by default. Set it after
    /// [`unique`](Self::unique).
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

    /// Returns the queue, or the queue that its lanes belong to.
    #[cfg(feature = "cron")]
    pub(crate) fn queue_name(&self) -> &str {
        &self.queue
    }

    /// Sets a text that tools show with the job, up to 1 KiB.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the property `correlation_id`, up to 255 bytes, which all copies of the job keep.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the time since which the job is on its way, for jobs that were stored elsewhere first; now by default.
    /// Delays and the time to live are nevertheless counted from now.
    pub fn enqueued_at(mut self, time: SystemTime) -> Self {
        self.enqueued_at = Some(time);
        self
    }

    /// Adds a header of your own, which all copies of the job keep. Names that start with `leveret-` or `x-` are
    /// reserved. So are `CC` and `BCC`, which make RabbitMQ route a message to more queues.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the fire time of the schedule that publishes the job, in milliseconds since the epoch.
    #[cfg(feature = "cron")]
    pub(crate) fn fired_at(mut self, at: u64) -> Self {
        self.fired_at = Some(at);
        self
    }

    /// Publishes to another queue than the job's own, or to one lane of it.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        (self.queue, self.lanes) = (queue.into(), false);
        self
    }

    /// Publishes the job to the lane of its queue that matches its priority. Publishes of jobs whose type sets
    /// [`Job::LANES`](crate::Job::LANES) do so by default.
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.publish_raw("email.send", "email", "{}").lanes().priority(9).await?;     // to email.high
    /// # Ok(()) }
    /// ```
    pub fn lanes(mut self) -> Self {
        self.lanes = true;
        self
    }

    /// Adds the headers for the job's origin, schedule, label and tracking.
    fn add_tracking_headers(&self, headers: &mut FieldTable) -> Result<(), PublishError> {
        if let Some(origin) = &self.origin {
            headers.insert(header::TRACK.into(), AMQPValue::Boolean(true));
            headers.insert(header::ORIGIN.into(), text(origin));
        }
        if let Some(at) = self.fired_at {
            headers.insert(header::FIRED_AT.into(), integer(at));
        }
        if let Some(label) = &self.label {
            require(label.len() <= LONGEST_LABEL, "label", label, "it must have at most 1024 bytes")?;
            headers.insert(header::LABEL.into(), text(label));
        }
        Ok(())
    }

    /// Builds the message, checked against every rule that could refuse it later.
    pub(crate) fn into_message(self) -> Result<(JobId, Target, Message), PublishError> {
        if let Some(unique) = &self.unique {
            unique.check()?;
            unique.store(&self.publisher)?;
        }
        let mut headers = FieldTable::default();
        self.add_tracking_headers(&mut headers)?;
        let (broker, body) = (&self.publisher.broker, self.body?);
        let limit = broker.config().payload_limit;
        if body.len() > limit {
            return Err(PublishError::TooLarge { part: "payload", size: body.len(), limit });
        }
        accept(names::job, "job name", &self.job)?;
        accept(names::queue, "queue", &self.queue)?;
        let id = self.id.unwrap_or_else(JobId::mint);
        accept(names::id, "job id", id.as_str())?;
        let now = broker.now_ms();
        let wait = match self.due {
            Due::Now => Duration::ZERO,
            Due::After(delay) => delay,
            Due::At(time) => Duration::from_millis(since_epoch(time).saturating_sub(now)),
        };
        if let Some(time_to_live) = self.expires {
            let shown = format!("{time_to_live:?}");
            require(time_to_live < LONGEST_DELAY, "time to live", &shown, "it must be less than ten years")?;
            let both = format!("{time_to_live:?} with a delay of {wait:?}");
            let reason = "it must be longer than the delay, or the job expires before it can run";
            require(millis(time_to_live) > millis(wait), "time to live", &both, reason)?;
            headers.insert(header::EXPIRES_AT.into(), integer(now.saturating_add(millis(time_to_live))));
        }
        for (name, value) in self.headers {
            accept(names::header, "header", &name)?;
            headers.insert(name.into(), value.into_amqp());
        }
        if !wait.is_zero() {
            require(wait < LONGEST_DELAY, "delay", &format!("{wait:?}"), "it must be less than ten years")?;
            headers.insert(header::NOT_BEFORE.into(), integer(now + millis(wait)));
        }
        let enqueued_at = self.enqueued_at.map_or(now, since_epoch);
        let mut message = Message::with_headers(&self.job, &id, body, enqueued_at, headers);
        if let Some(correlation) = &self.correlation_id {
            require(correlation.len() <= 255, "correlation id", correlation, "it must have at most 255 bytes")?;
            message.properties = message.properties.with_correlation_id(short(correlation));
        }
        if let Some(priority) = self.priority {
            require(priority <= 31, "priority", &priority.to_string(), "it must be 0 to 31")?;
            message.properties = message.properties.with_priority(priority);
        }
        let size = message.header_size();
        if size > COPY_HEADER_LIMIT {
            return Err(PublishError::TooLarge { part: "headers", size, limit: COPY_HEADER_LIMIT });
        }
        let queue = if self.lanes { Lane::for_priority(self.priority).of(&self.queue) } else { self.queue };
        Ok((id, Target::after(queue, Wait::at_least(wait)), message))
    }
}

impl IntoFuture for Publish {
    type Output = Result<JobId, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        if let Some(unique) = self.unique.take() {
            return Box::pin(unique::publish(self, *unique));
        }
        // A separate `async fn` would store all of this twice.
        Box::pin(async move {
            let (publisher, job) = (self.publisher.clone(), self.job.clone());
            let (id, target, message) = self.into_message()?;
            publisher.send_job(&job, target, id, (message, false)).await
        })
    }
}

/// Applies one of the rules of [`names`].
pub(super) fn accept(
    rule: fn(&str) -> Result<(), &'static str>,
    what: &'static str,
    value: &str,
) -> Result<(), PublishError> {
    rule(value).map_err(|reason| PublishError::Invalid { what, value: value.to_owned(), reason })
}

pub(crate) fn require(holds: bool, what: &'static str, value: &str, reason: &'static str) -> Result<(), PublishError> {
    if holds { Ok(()) } else { Err(PublishError::Invalid { what, value: value.to_owned(), reason }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Broker;

    #[tokio::test]
    async fn a_job_that_would_expire_before_it_can_run_is_refused_with_both_values() {
        let broker = Broker::memory();
        let publish = || broker.publisher().publish_raw("j", "q", "{}");
        let seconds = Duration::from_secs;
        let in_an_hour = SystemTime::now() + seconds(3600);
        for born_expired in [
            publish().delay(seconds(3)).expires(seconds(1)),
            publish().expires(seconds(1)).delay(seconds(3)),
            publish().delay(seconds(3)).expires(seconds(3)),
            publish().at(in_an_hour).expires(seconds(60)),
            publish().expires(Duration::from_micros(1)),
        ] {
            let error = born_expired.into_message().unwrap_err();
            assert!(matches!(error, PublishError::Invalid { what: "time to live", .. }), "{error}");
        }
        let error = publish().delay(seconds(3)).expires(seconds(1)).into_message().unwrap_err().to_string();
        assert!(error.contains("1s with a delay of 3s"), "{error}");
        for right in [publish().delay(seconds(1)).expires(seconds(3)), publish().expires(seconds(1))] {
            right.into_message().unwrap();
        }
    }
}
