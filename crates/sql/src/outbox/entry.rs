//! A job for the outbox, with the options of its publish.

use std::time::{Duration, SystemTime};

use leveret::{
    HeaderValue, Job, JobId, names,
    time::{millis as ms, now_ms, unix_ms},
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A job for the outbox, with the options of a [publish](leveret::Publish). A reference to a job converts into an entry
/// without options.
///
/// All times count from the creation of the entry, not from its publish. A delay that has passed by then has no effect.
///
/// ```
/// use std::time::Duration;
/// use leveret_sql::OutboxEntry;
/// # #[derive(serde::Serialize, serde::Deserialize, leveret::Job)] #[job(name = "email.send", queue = "email")]
/// # struct SendEmail { to: String }
///
/// let job = SendEmail { to: "ada@example.org".into() };
/// let entry = OutboxEntry::new(&job).delay(Duration::from_secs(3600)).priority(5).order_key("customer-7");
/// # let _ = entry;
/// ```
#[derive(Debug)]
pub struct OutboxEntry {
    pub(super) id: Option<JobId>,
    pub(super) job: String,
    pub(super) queue: String,
    pub(super) payload: Result<Vec<u8>>,
    pub(super) order_key: Option<String>,
    pub(super) options: Options,
    pub(super) enqueued_at: u64,
}

/// The options as they are stored, in JSON. Times are milliseconds since the epoch.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) priority: Option<u8>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) lanes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) track: bool,
    #[serde(with = "headers", skip_serializing_if = "Vec::is_empty")]
    pub(super) headers: Vec<(String, HeaderValue)>,
}

impl Options {
    /// Adds the current trace to the headers, unless they have a trace.
    pub(super) fn continue_trace(&mut self) {
        if self.headers.iter().all(|(name, _)| name != "traceparent") {
            self.headers
                .extend(leveret::trace_headers().into_iter().map(|(name, value)| (name.to_owned(), value.into())));
        }
    }
}

impl<J: Job> From<&J> for OutboxEntry {
    fn from(job: &J) -> Self {
        Self::new(job)
    }
}

impl OutboxEntry {
    /// Makes an entry of a job, for the queue of its type.
    pub fn new<J: Job>(job: &J) -> Self {
        let mut entry =
            Self::with(J::NAME.to_owned(), J::QUEUE.to_owned(), serde_json::to_vec(job).map_err(Error::Encode));
        entry.options.lanes = J::LANES;
        entry
    }

    /// Makes an entry of a job whose type is not known here, from its name, its queue and its payload, which must be
    /// JSON.
    ///
    /// ```
    /// let entry = leveret_sql::OutboxEntry::raw("email.send", "email", r#"{"to": "ada@example.org"}"#).track();
    /// # let _ = entry;
    /// ```
    pub fn raw(job: impl Into<String>, queue: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self::with(job.into(), queue.into(), Ok(payload.into()))
    }

    fn with(job: String, queue: String, payload: Result<Vec<u8>>) -> Self {
        let options = Options::default();
        Self { id: None, job, queue, payload, order_key: None, options, enqueued_at: now_ms() }
    }

    /// As [`Publish::delay`](leveret::Publish::delay).
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.not_before = Some(self.enqueued_at.saturating_add(ms(delay)));
        self
    }

    /// As [`Publish::at`](leveret::Publish::at).
    #[must_use]
    pub fn at(mut self, time: SystemTime) -> Self {
        self.options.not_before = Some(unix_ms(time));
        self
    }

    /// As [`Publish::expires`](leveret::Publish::expires).
    #[must_use]
    pub fn expires(mut self, time_to_live: Duration) -> Self {
        self.options.expires_at = Some(self.enqueued_at.saturating_add(ms(time_to_live)));
        self
    }

    /// As [`Publish::priority`](leveret::Publish::priority).
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// As [`Publish::id`](leveret::Publish::id); a UUIDv7 by default.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(JobId::from(id.into()));
        self
    }

    /// As [`Publish::queue`](leveret::Publish::queue).
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        (self.queue, self.options.lanes) = (queue.into(), false);
        self
    }

    /// As [`Publish::lanes`](leveret::Publish::lanes). It is the default of jobs with [`Job::LANES`].
    #[must_use]
    pub fn lanes(mut self) -> Self {
        self.options.lanes = true;
        self
    }

    /// As [`Publish::correlation_id`](leveret::Publish::correlation_id).
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.options.correlation_id = Some(id.into());
        self
    }

    /// As [`Publish::label`](leveret::Publish::label).
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.options.label = Some(label.into());
        self
    }

    /// As [`Publish::track`](leveret::Publish::track).
    #[must_use]
    pub fn track(mut self) -> Self {
        self.options.track = true;
        self
    }

    /// As [`Publish::header`](leveret::Publish::header).
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.options.headers.push((name.into(), value.into()));
        self
    }

    /// Orders publishes: the job is published after all jobs that were enqueued before it with the same key, of 1 to
    /// 255 bytes.
    ///
    /// On PostgreSQL the key is locked until the transaction ends, so that the order is that of the commits. Two
    /// transactions that lock two keys in opposite order end in a deadlock, which PostgreSQL breaks with an error.
    ///
    /// A job that is set aside blocks the jobs behind it until it is retried or discarded. The order of *runs* depends
    /// on the queue: it is kept by one consumer with `concurrency(1)`, as long as no job fails.
    #[must_use]
    pub fn order_key(mut self, key: impl Into<String>) -> Self {
        self.order_key = Some(key.into());
        self
    }

    /// Refuses here what a publish would refuse later, when the caller no longer waits.
    pub(super) fn check(&self) -> Result<()> {
        let bytes = |text: &str| (1..=255).contains(&text.len());
        accept(names::job, "job name", &self.job)?;
        accept(names::queue, "queue", &self.queue)?;
        let whole = |text: &str| bytes(text) && !text.contains('\0');
        let id = self.id.as_ref().map_or("minted", JobId::as_str);
        require(whole(id), "job id", id, "it must have 1 to 255 bytes, none of them NUL")?;
        let key = self.order_key.as_deref().unwrap_or("none");
        require(whole(key), "order key", key, "it must have 1 to 255 bytes, none of them NUL")?;
        let priority = self.options.priority.unwrap_or(0);
        require(priority <= 31, "priority", &priority.to_string(), "it must be 0 to 31")?;
        let label = self.options.label.as_deref().unwrap_or_default();
        require(label.len() <= 1024, "label", label, "it must have at most 1024 bytes")?;
        let correlation = self.options.correlation_id.as_deref().unwrap_or_default();
        require(correlation.len() <= 255, "correlation id", correlation, "it must have at most 255 bytes")?;
        for (name, _) in &self.options.headers {
            accept(names::header, "header", name)?;
        }
        for time in [self.options.not_before, self.options.expires_at].into_iter().flatten() {
            let near = time < self.enqueued_at.saturating_add(TEN_YEARS_MS);
            require(near, "time", &time.to_string(), "it must be less than ten years ahead")?;
        }
        if let Some(expires_at) = self.options.expires_at {
            let due = self.options.not_before.unwrap_or(0).max(self.enqueued_at);
            let [delay, time_to_live] =
                [due, expires_at].map(|at| Duration::from_millis(at.saturating_sub(self.enqueued_at)));
            let both = format!("{time_to_live:?} with a delay of {delay:?}");
            let reason = "it must be longer than the delay, or the job expires before it can run";
            require(time_to_live > delay, "time to live", &both, reason)?;
        }
        Ok(())
    }
}

const TEN_YEARS_MS: u64 = 315_360_000_000;

/// Applies one of the rules of [`names`].
fn accept(rule: fn(&str) -> std::result::Result<(), &'static str>, what: &'static str, value: &str) -> Result<()> {
    rule(value).map_err(|reason| Error::InvalidEntry { what, value: value.to_owned(), reason })
}

fn require(holds: bool, what: &'static str, value: &str, reason: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::InvalidEntry { what, value: value.to_owned(), reason }) }
}

/// Headers as a JSON object, which is what `leveret_enqueue` writes.
mod headers {
    use std::collections::BTreeMap;

    use leveret::HeaderValue;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(headers: &[(String, HeaderValue)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(headers.iter().map(|(name, value)| (name, value)))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<(String, HeaderValue)>, D::Error> {
        Ok(BTreeMap::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, Job)]
    #[job(name = "laned", queue = "laned", lanes)]
    struct Laned {}

    #[test]
    fn a_job_whose_queue_has_lanes_is_for_them_unless_it_goes_elsewhere() {
        let lanes = |entry: OutboxEntry| {
            let kept = serde_json::to_string(&entry.options).unwrap();
            serde_json::from_str::<Options>(&kept).unwrap().lanes
        };
        assert!(lanes(OutboxEntry::new(&Laned {})) && lanes(OutboxEntry::from(&Laned {}).priority(9)));
        assert!(!lanes(OutboxEntry::new(&Laned {}).queue("other")) && !lanes(OutboxEntry::raw("laned", "laned", "{}")));
        assert!(lanes(OutboxEntry::raw("laned", "laned", "{}").lanes()));
    }

    #[test]
    fn an_entry_that_would_expire_before_it_can_run_is_refused_with_both_values() {
        let (entry, seconds) = (|| OutboxEntry::raw("j", "q", "{}"), Duration::from_secs);
        for born_expired in [
            entry().delay(seconds(3)).expires(seconds(1)),
            entry().expires(seconds(3)).delay(seconds(3)),
            entry().at(SystemTime::now() + seconds(60)).expires(seconds(30)),
            entry().expires(Duration::ZERO),
        ] {
            assert!(
                matches!(born_expired.check(), Err(Error::InvalidEntry { what: "time to live", .. })),
                "{born_expired:?}"
            );
        }
        let error = entry().delay(seconds(3)).expires(seconds(1)).check().unwrap_err().to_string();
        assert!(error.contains("1s with a delay of 3s"), "{error}");
        entry().delay(seconds(1)).expires(seconds(3)).check().unwrap();
        entry().at(SystemTime::UNIX_EPOCH).expires(seconds(3)).check().unwrap();
    }
}
