//! Checks a job to publish, and makes its message.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use lapin::types::{AMQPValue, FieldTable};

use crate::publish::{
    header_value::HeaderValue,
    new_job::{NewJob, new_origin},
    options::{JobOptions, Lanes},
};
use crate::{
    error::PublishError,
    job::JobId,
    message::{COPY_HEADER_LIMIT, LONGEST_LABEL, LONGEST_ORIGIN, Message, header, integer, short, text},
    names,
    time::{at_unix_ms, millis, unix_ms},
    topology::{Target, delay::Wait, lane::Lane},
    trace::trace_headers,
};

/// The longest delay. Workers treat a time further ahead as a mistake.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// The longest unique key that fits into a database's index together with the job's name.
const LONGEST_KEY: usize = 1024;

/// A job in the form of a store: checked, with an id and absolute times, so that it can be published later.
///
/// [`NewJob::into_stored`] makes it. It converts back into the [`NewJob`] to publish.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use leveret::NewJob;
///
/// let new = NewJob::raw("email.send", "email", "{}").id("order-17").delay(Duration::from_secs(60));
/// let stored = new.into_stored(SystemTime::UNIX_EPOCH)?;
/// assert_eq!((stored.id.as_str(), stored.payload.as_slice()), ("order-17", b"{}".as_slice()));
/// assert_eq!(serde_json::to_string(&stored.options)?, r#"{"not_before":60000}"#);
/// let due_by_then: NewJob = stored.into();
/// # let _ = due_by_then;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct StoredJob {
    /// The job's id.
    pub id: JobId,
    /// The job's name.
    pub name: Cow<'static, str>,
    /// The queue, or the queue that its lanes belong to.
    pub queue: Cow<'static, str>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The time since which the job is on its way.
    pub enqueued_at: SystemTime,
    /// All else.
    pub options: JobOptions,
}

impl fmt::Debug for StoredJob {
    /// Shows the job's name, queue, id and size, and none of its contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredJob")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .field("id", &self.id)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl From<StoredJob> for NewJob {
    fn from(stored: StoredJob) -> Self {
        let StoredJob { id, name, queue, payload, enqueued_at, options } = stored;
        let new = Self::new(name, queue, Ok(payload)).id(id.as_str());
        Self { enqueued_at: Some(unix_ms(enqueued_at)), options, ..new }
    }
}

impl NewJob {
    /// Checks the job for a store from which it is published later. Its delay and its time to live count from `now`,
    /// and it continues the current trace. Sets the id and the origin unless they are set.
    ///
    /// # Errors
    ///
    /// [`PublishError::Invalid`], [`PublishError::TooLarge`] and [`PublishError::Encode`] for a job that could never be
    /// published. The limit of the payload is a setting of the publisher, and is checked by the publish.
    pub fn into_stored(mut self, now: SystemTime) -> Result<StoredJob, PublishError> {
        self.payload()?;
        let (id, at) = (self.identify(), unix_ms(now));
        let options = &mut self.options;
        if !options.headers.contains_key(header::TRACEPARENT) {
            options.headers.extend(trace_headers().into_iter().map(|(name, value)| (name.to_owned(), value.into())));
        }
        self.draft(at)?;
        let options = &mut self.options;
        options.lanes = Lanes::Flag(options.lanes.has(&self.queue));
        let after = |time: Duration| at.saturating_add(millis(time));
        options.not_before = options.delay.take().map(after).or(options.not_before);
        options.expires_at = options.expires.take().map(after).or(options.expires_at);
        let enqueued_at = self.enqueued_at.map_or(now, at_unix_ms);
        let Self { name, queue, payload, options, .. } = self;
        Ok(StoredJob { id, name, queue, payload: payload.unwrap_or_default(), enqueued_at, options })
    }

    /// Builds the message, checked against every rule that could refuse it later.
    pub(crate) fn into_message(self, payload_limit: usize, now: u64) -> Result<(JobId, Target, Message), PublishError> {
        let size = self.payload()?.len();
        if size > payload_limit {
            return Err(PublishError::TooLarge { part: "payload", size, limit: payload_limit });
        }
        let (id, wait, mut message) = self.draft(now)?;
        message.body = self.payload.unwrap_or_default().into();
        let lane = if self.options.lanes.has(&self.queue) {
            Lane::for_priority(self.options.priority).of(&self.queue)
        } else {
            self.queue.into_owned()
        };
        Ok((id, Target::after(lane, Wait::at_least(wait)), message))
    }

    /// Checks everything except the payload. Returns the size of the headers.
    pub(super) fn draft_size(&self, now: u64) -> Result<usize, PublishError> {
        self.draft(now).map(|(.., message)| message.header_size())
    }

    /// Checks everything except the payload. Returns the id, the delay and the message without its payload.
    fn draft(&self, now: u64) -> Result<(JobId, Duration, Message), PublishError> {
        let options = &self.options;
        accept(names::job, "job name", &self.name)?;
        accept(names::queue, "queue", &self.queue)?;
        let id = self.id.as_deref().map_or_else(JobId::mint, JobId::from);
        accept(names::id, "job id", id.as_str())?;
        options.check_unique()?;
        let shared = options.shared();
        let mut headers = FieldTable::default();
        shared.add_headers(&mut headers)?;
        let enqueued_at = self.enqueued_at.unwrap_or(now);
        if let Some(step) = &options.step {
            step.write(&mut headers, enqueued_at);
        }
        if let Some(at) = self.fired_at {
            headers.insert(header::FIRED_AT.into(), integer(at));
        }
        let wait = options.wait(now)?;
        if let Some(at) = options.expiry(now, wait)? {
            headers.insert(header::EXPIRES_AT.into(), integer(at));
        }
        if !wait.is_zero() {
            headers.insert(header::NOT_BEFORE.into(), integer(now + millis(wait)));
        }
        let mut message = Message::with_headers(&self.name, &id, Vec::new(), enqueued_at, headers);
        shared.set_properties(&mut message)?;
        if let Some(priority) = options.priority {
            require(priority <= 31, "priority", &priority, "it must be 0 to 31")?;
            message.properties = std::mem::take(&mut message.properties).with_priority(priority);
        }
        check_header_size(&message)?;
        Ok((id, wait, message))
    }
}

impl JobOptions {
    fn check_unique(&self) -> Result<(), PublishError> {
        match (&self.unique, self.if_taken) {
            (Some(unique), _) => {
                let fits = unique.key.len() <= LONGEST_KEY && !unique.key.contains('\0');
                require(fits, "unique key", &unique.key, "it must have at most 1024 bytes, none of them NUL")
            }
            (None, Some(then)) => {
                let reason = "the job has no unique key: set one with unique";
                require(false, "if_taken", &format_args!("{then:?}"), reason)
            }
            (None, None) => Ok(()),
        }
    }

    fn shared(&self) -> SharedOptions<'_> {
        let has_origin = self.is_tracked() || self.step.is_some();
        SharedOptions {
            track: self.is_tracked(),
            origin: has_origin.then(|| self.origin.clone().unwrap_or_else(new_origin)),
            label: self.label.as_deref(),
            correlation_id: self.correlation_id.as_deref(),
            content_type: self.content_type.as_deref(),
            headers: &self.headers,
        }
    }

    /// Returns the delay from now.
    fn wait(&self, now: u64) -> Result<Duration, PublishError> {
        let wait = match (self.delay, self.not_before) {
            (Some(delay), Some(at)) => {
                let reason = "the job has a time to start at as well: set either delay or at";
                let shown = format!("{delay:?} and {at} ms since the epoch");
                return Err(PublishError::Invalid { what: "delay", value: shown, reason });
            }
            (Some(delay), None) => delay,
            (None, Some(at)) => Duration::from_millis(at.saturating_sub(now)),
            (None, None) => Duration::ZERO,
        };
        require(wait < LONGEST_DELAY, "delay", &format_args!("{wait:?}"), "it must be less than ten years")?;
        Ok(wait)
    }

    /// Returns the time at which the job expires, in milliseconds since the epoch.
    fn expiry(&self, now: u64, wait: Duration) -> Result<Option<u64>, PublishError> {
        let Some(time_to_live) = self.expires else {
            // The time of a stored job was checked before, and may have passed: such a job expires in its queue.
            let near = self.expires_at.is_none_or(|at| Duration::from_millis(at.saturating_sub(now)) < LONGEST_DELAY);
            let shown = format_args!("{:?} ms since the epoch", self.expires_at.unwrap_or_default());
            require(near, "time to live", &shown, "it must end within ten years")?;
            return Ok(self.expires_at);
        };
        let shown = format_args!("{time_to_live:?}");
        require(time_to_live < LONGEST_DELAY, "time to live", &shown, "it must be less than ten years")?;
        if millis(time_to_live) <= millis(wait) {
            let value = format!("{time_to_live:?} with a delay of {wait:?}");
            let reason = "it must be longer than the delay, or the job expires before it can run";
            return Err(PublishError::Invalid { what: "time to live", value, reason });
        }
        Ok(Some(now.saturating_add(millis(time_to_live))))
    }
}

/// The options that jobs and events share.
pub(super) struct SharedOptions<'a> {
    pub(super) track: bool,
    /// The value that distinguishes this job or event from others with the same id; `None` if it needs none.
    pub(super) origin: Option<String>,
    pub(super) label: Option<&'a str>,
    pub(super) correlation_id: Option<&'a str>,
    pub(super) content_type: Option<&'a str>,
    pub(super) headers: &'a BTreeMap<String, HeaderValue>,
}

impl SharedOptions<'_> {
    /// Adds the headers for the origin, the label and tracking, and the publisher's own.
    pub(super) fn add_headers(&self, headers: &mut FieldTable) -> Result<(), PublishError> {
        if self.track {
            headers.insert(header::TRACK.into(), AMQPValue::Boolean(true));
        }
        if let Some(origin) = &self.origin {
            let fits = (1..=LONGEST_ORIGIN).contains(&origin.len());
            require(fits, "origin", origin, "it must have 1 to 64 bytes")?;
            headers.insert(header::ORIGIN.into(), text(origin));
        }
        if let Some(label) = self.label {
            require(label.len() <= LONGEST_LABEL, "label", &label, "it must have at most 1024 bytes")?;
            headers.insert(header::LABEL.into(), text(label));
        }
        for (name, value) in self.headers {
            accept(names::header, "header", name)?;
            headers.insert(name.as_str().into(), value.clone().into_amqp());
        }
        Ok(())
    }

    pub(super) fn set_properties(&self, message: &mut Message) -> Result<(), PublishError> {
        let mut properties = std::mem::take(&mut message.properties);
        if let Some(correlation) = self.correlation_id {
            require(correlation.len() <= 255, "correlation id", &correlation, "it must have at most 255 bytes")?;
            properties = properties.with_correlation_id(short(correlation));
        }
        if let Some(content_type) = self.content_type {
            let fits = (1..=255).contains(&content_type.len());
            require(fits, "content type", &content_type, "it must have 1 to 255 bytes")?;
            properties = properties.with_content_type(short(content_type));
        }
        message.properties = properties;
        Ok(())
    }
}

pub(super) fn check_header_size(message: &Message) -> Result<(), PublishError> {
    let size = message.header_size();
    if size > COPY_HEADER_LIMIT {
        return Err(PublishError::TooLarge { part: "headers", size, limit: COPY_HEADER_LIMIT });
    }
    Ok(())
}

/// Applies one of the rules of [`names`].
pub(super) fn accept(
    rule: fn(&str) -> Result<(), &'static str>,
    what: &'static str,
    value: &str,
) -> Result<(), PublishError> {
    rule(value).map_err(|reason| PublishError::Invalid { what, value: value.to_owned(), reason })
}

/// Returns an error with the value unless the rule holds.
pub(super) fn require(
    holds: bool,
    what: &'static str,
    value: &dyn fmt::Display,
    reason: &'static str,
) -> Result<(), PublishError> {
    if holds { Ok(()) } else { Err(PublishError::Invalid { what, value: value.to_string(), reason }) }
}
