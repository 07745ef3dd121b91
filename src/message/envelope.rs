//! The framework's fields of a message.

use lapin::types::AMQPValue;

use crate::message::{Message, header};

/// The framework's fields of a message, apart from its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// Counted from 1.
    pub(crate) attempt: u32,
    pub(crate) hop: u32,
    /// First publish, ms since the epoch.
    pub(crate) enqueued_at: Option<u64>,
    pub(crate) not_before: Option<u64>,
    pub(crate) expires_at: Option<u64>,
    /// The due time before the first snooze, ms since the epoch.
    pub(crate) snoozed_since: Option<u64>,
    /// True if the job's status updates are published.
    pub(crate) track: bool,
}

impl Default for Envelope {
    /// Returns the envelope of a message without any framework header.
    fn default() -> Self {
        Self {
            attempt: 1,
            hop: 0,
            enqueued_at: None,
            not_before: None,
            expires_at: None,
            snoozed_since: None,
            track: false,
        }
    }
}

/// An invalid framework header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("header {header} is malformed: {reason}")]
pub(crate) struct Malformed {
    pub(crate) header: &'static str,
    pub(crate) reason: &'static str,
}

impl Message {
    /// Returns whether the time of the publish is the only header, as in the first delivery of most jobs.
    pub(crate) fn is_plain(&self) -> bool {
        let Some(headers) = self.properties.headers() else { return true };
        let is_time = |(name, value): (&lapin::types::ShortString, &AMQPValue)| {
            matches!(value, AMQPValue::LongLongInt(_)) && name.as_str() == header::ENQUEUED_AT
        };
        headers.inner().len() <= 1 && headers.inner().iter().all(is_time)
    }

    /// Reads the framework's headers. `now_ms` bounds the times that count as valid.
    pub(crate) fn envelope(&self, now_ms: u64) -> Result<Envelope, Malformed> {
        if self.is_plain() {
            let enqueued_at = self.enqueued_at().map(|at| at.min(now_ms));
            return Ok(Envelope { enqueued_at, ..Envelope::default() });
        }
        let attempt = self.counter(header::ATTEMPT)?.unwrap_or(1);
        if attempt == 0 {
            return Err(Malformed { header: header::ATTEMPT, reason: "attempts are counted from 1" });
        }
        Ok(Envelope {
            attempt,
            hop: self.counter(header::HOP)?.unwrap_or(0),
            // A time ahead would make the job appear younger than it is, indefinitely.
            enqueued_at: self.enqueued_at().map(|at| at.min(now_ms)),
            not_before: self.time(header::NOT_BEFORE, now_ms)?,
            expires_at: self.time(header::EXPIRES_AT, now_ms)?,
            snoozed_since: self.stamp(header::SNOOZED_SINCE).map(|at| at.min(now_ms)),
            track: self.is_tracked(),
        })
    }

    fn counter(&self, name: &'static str) -> Result<Option<u32>, Malformed> {
        let Some(number) = self.number(name) else { return Ok(None) };
        let number = number.map_err(|reason| Malformed { header: name, reason })?;
        u32::try_from(number).map(Some).map_err(|_| Malformed { header: name, reason: "out of range" })
    }
}
