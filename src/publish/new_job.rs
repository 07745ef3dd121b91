//! The description of a job to publish: plain data that every way to publish takes.

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::publish::{
    header_value::HeaderValue,
    options::{JobOptions, Lanes, UniqueKey, payload},
    unique::IfTaken,
};
use crate::{
    error::PublishError,
    job::{Job, JobId},
    message::origin::digest_of,
    time::{at_unix_ms, millis, unix_ms},
    tracking::status_update::{StatusUpdate, Transition},
};

/// A job to publish, with its options, as plain data.
///
/// [`Publisher::publish`](crate::Publisher::publish), [`publish_all`](crate::Publisher::publish_all), schedules, the
/// outbox of `leveret-sql`, the HTTP API and the command line all take this type. A reference to a [`Job`] converts into
/// it, without options.
///
/// The setters can be called in any order. A setter only stores its value; each of these ways checks all values before
/// anything is sent or stored, and returns an error that names the first invalid one.
///
/// ```
/// use std::time::Duration;
/// use leveret::NewJob;
/// # #[derive(serde::Serialize, serde::Deserialize, leveret::Job)] #[job(name = "email.send", queue = "email")]
/// # struct SendEmail { to: String }
///
/// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
/// let job = SendEmail { to: "ada@example.com".into() };
/// let reminder = NewJob::of(&job).delay(Duration::from_secs(3600)).priority(5).label("Reminder");
/// publisher.publish(reminder.clone().id("reminder-17")).await?;
///
/// let json = serde_json::to_string(&reminder).expect("its payload is JSON");      // to keep it elsewhere
/// assert_eq!(serde_json::from_str::<NewJob>(&json).expect("it was written above"), reminder);
/// # Ok(()) }
/// ```
///
/// # Form in JSON
///
/// An object with the members `name`, `queue`, `payload` (a text, or a list of bytes that are no text), and if they are
/// set `id`, `enqueued_at` and `options`. Unknown members are errors. A job whose payload did not serialise has no form
/// in JSON.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "a job is published by a publisher"]
pub struct NewJob {
    pub(super) name: Cow<'static, str>,
    pub(super) queue: Cow<'static, str>,
    /// The payload, or the reason why the job does not serialise.
    #[serde(with = "payload")]
    pub(super) payload: Result<Vec<u8>, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    /// The first enqueue in milliseconds since the epoch, for jobs that were stored elsewhere first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) enqueued_at: Option<u64>,
    #[serde(default, skip_serializing_if = "JobOptions::is_empty")]
    pub(super) options: JobOptions,
    /// The fire time of the schedule that publishes the job, in milliseconds since the epoch.
    #[serde(skip)]
    pub(super) fired_at: Option<u64>,
}

impl<J: Job> From<&J> for NewJob {
    fn from(job: &J) -> Self {
        Self::of(job)
    }
}

impl NewJob {
    /// Describes a job of this type, for the queue of the type.
    pub fn of<J: Job>(job: &J) -> Self {
        let payload = serde_json::to_vec(job).map_err(|error| error.to_string());
        let mut new = Self::new(J::NAME.into(), J::QUEUE.into(), payload);
        if J::LANES {
            new.options.lanes = Lanes::Of(J::QUEUE.into());
        }
        new
    }

    /// Describes a job without its type: by its name, its queue and its payload, which should be JSON.
    ///
    /// ```
    /// let new = leveret::NewJob::raw("email.send", "email", r#"{"to": "ada@example.com"}"#).track();
    /// # let _ = new;
    /// ```
    pub fn raw(name: impl Into<Cow<'static, str>>, queue: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self::new(name.into(), queue.into().into(), Ok(payload.into()))
    }

    pub(super) fn new(name: Cow<'static, str>, queue: Cow<'static, str>, payload: Result<Vec<u8>, String>) -> Self {
        Self { name, queue, payload, id: None, enqueued_at: None, options: JobOptions::default(), fired_at: None }
    }

    /// Returns the job's name.
    ///
    /// ```
    /// assert_eq!(leveret::NewJob::raw("email.send", "email", "{}").name(), "email.send");
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the value that distinguishes a tracked job from others with the same id. Status updates have its digest
    /// ([`StatusUpdate::origin`](crate::tracking::status_update::StatusUpdate::origin)). It is `None` before
    /// [`into_queued`](Self::into_queued) or [`into_stored`](Self::into_stored) has generated it; otherwise each publish
    /// generates its own. The value is random, so a publisher that knows only a job's id cannot publish a message as
    /// that job.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// let (new, _) = leveret::NewJob::raw("email.send", "email", "{}").track().into_queued(SystemTime::now());
    /// assert_eq!(new.origin().map(str::len), Some(32));
    /// ```
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.options.origin.as_deref()
    }

    /// Delays the job in the broker for this time; never shorter, and less than a second longer. It counts from the
    /// publish, or from the enqueue in an outbox.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.delay = Some(delay);
        self
    }

    /// Delays the job in the broker until this time, instead of [`delay`](Self::delay). A time in the past means now.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.options.not_before = Some(unix_ms(time));
        self
    }

    /// Sets the priority, 0 to 31. Brokers before 4.0 have none, 4.0 to 4.2 have two (5 and above is high), later ones
    /// have all. A job without a priority counts as 4.
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Dead-letters the job with the kind `expired` if it has not started within this time. The time counts from the
    /// publish, or from the enqueue in an outbox, and must be longer than the job's delay.
    pub fn expires(mut self, time_to_live: Duration) -> Self {
        self.options.expires = Some(time_to_live);
        self
    }

    /// Sets the job's id, 1 to 255 bytes; a UUIDv7 by default. Use the same id for another publish after
    /// [`PublishError::Uncertain`](crate::PublishError::Uncertain).
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Makes the job's worker publish status updates ([`status_update`](crate::tracking::status_update)), and allows
    /// the job to be cancelled. It costs four more small publishes.
    pub fn track(mut self) -> Self {
        self.options.track = true;
        self
    }

    /// Publishes the job only if no other job with this key and job name is waiting or running.
    ///
    /// The key is taken until the job has ended, and at most for `time_to_live` from the publish, so `time_to_live` must
    /// exceed the job's wait and run. It requires a store ([`Publisher::unique_in`](crate::Publisher::unique_in)) and a
    /// key of at most 1 KiB. It tracks the job, because the end of a tracked job frees the key. See
    /// [`unique`](crate::publish::unique) for what it does not promise.
    pub fn unique(mut self, key: impl Into<String>, time_to_live: Duration) -> Self {
        self.options.unique = Some(Box::new(UniqueKey { key: key.into(), time_to_live }));
        self
    }

    /// Sets what happens to a [unique](Self::unique) job whose key is taken; it is refused by default.
    pub fn if_taken(mut self, then: IfTaken) -> Self {
        self.options.if_taken = Some(then);
        self
    }

    /// Sets a text that tools show with the job, up to 1 KiB.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.options.label = Some(label.into());
        self
    }

    /// Sets the property `correlation_id`, up to 255 bytes, which all copies of the job keep.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.options.correlation_id = Some(id.into());
        self
    }

    /// Sets the property `content_type`, up to 255 bytes; `application/json` by default. Typed handlers read JSON only.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.options.content_type = Some(content_type.into());
        self
    }

    /// Sets a header of your own, which all copies of the job keep. Names that start with `leveret-` or `x-` are
    /// reserved. So are `CC` and `BCC`, which make RabbitMQ route a message to more queues.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.options.headers.insert(name.into(), value.into());
        self
    }

    /// Publishes to another queue than the job's own, or to one lane of it.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into().into();
        self
    }

    /// Publishes to the lane of the queue that matches the priority. A job whose type sets
    /// [`Job::LANES`](crate::Job::LANES) does so by default on the queue of its type.
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.publish_raw("email.send", "email", "{}").lanes().priority(9).await?;     // to email.high
    /// # Ok(()) }
    /// ```
    pub fn lanes(mut self) -> Self {
        self.options.lanes = Lanes::Flag(true);
        self
    }

    /// Sets the fire time of the schedule that publishes the job, in milliseconds since the epoch.
    #[cfg(feature = "cron")]
    pub(crate) fn fired_at(mut self, at: u64) -> Self {
        self.fired_at = Some(at);
        self
    }

    /// Returns the queue, or the queue that its lanes belong to.
    #[cfg(feature = "cron")]
    pub(crate) fn queue_name(&self) -> &str {
        &self.queue
    }

    #[cfg(feature = "cron")]
    pub(crate) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    /// Returns the payload.
    ///
    /// # Errors
    ///
    /// [`PublishError::Encode`] for a job that does not serialise.
    pub(crate) fn payload(&self) -> Result<&[u8], PublishError> {
        let error = |reason: &String| PublishError::Encode { job: self.name.to_string(), reason: reason.clone() };
        self.payload.as_deref().map_err(error)
    }

    /// Sets the id and the origin of a tracked job, unless they are set, so that later copies of this description are
    /// the same job.
    pub(super) fn identify(&mut self) -> JobId {
        let options = &mut self.options;
        if options.is_tracked() && options.origin.is_none() {
            options.origin = Some(new_origin());
        }
        let id = self.id.get_or_insert_with(|| JobId::mint().as_str().to_owned());
        JobId::from(id.as_str())
    }

    /// Sets the id and the origin unless they are set, and returns the status update of the publish at this time, for a
    /// program that records it once the job is published. Workers do not send this update.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use leveret::status_update::Transition;
    ///
    /// let (new, queued) = leveret::NewJob::raw("email.send", "email", "{}").track().into_queued(SystemTime::now());
    /// assert_eq!((queued.job.as_str(), queued.transition), ("email.send", Transition::Queued { due: None, expires: None }));
    /// # let _ = new;
    /// ```
    pub fn into_queued(mut self, at: SystemTime) -> (Self, StatusUpdate) {
        let (id, at_ms) = (self.identify(), unix_ms(at));
        let options = &self.options;
        let after = |time: Duration| at_ms.saturating_add(millis(time));
        let queued = StatusUpdate {
            id,
            job: self.name.to_string(),
            queue: self.queue.to_string(),
            origin: options.origin.as_deref().map(digest_of),
            label: options.label.clone(),
            priority: options.priority,
            attempt: 1,
            hop: 0,
            enqueued_at: Some(at_unix_ms(self.enqueued_at.unwrap_or(at_ms))),
            at: at_unix_ms(at_ms),
            worker: None,
            transition: Transition::Queued {
                due: options.not_before.or(options.delay.map(after)).map(at_unix_ms),
                expires: options.expires_at.or(options.expires.map(after)).map(at_unix_ms),
            },
        };
        (self, queued)
    }
}

impl fmt::Debug for NewJob {
    /// Shows the job's name, queue, id and size, and none of its contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .field("id", &self.id)
            .field("bytes", &self.payload.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

/// Returns a random value that distinguishes a tracked job from others with the same id.
pub(super) fn new_origin() -> String {
    Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
#[path = "new_job_tests.rs"]
mod tests;
