//! The wire contract: how a job stands in an AMQP message, what a worker reads of it, and what a copy keeps.
//!
//! Reading is lenient in form (every integer width, strings or bytes) and strict in meaning: a framework header that
//! steers a job and makes no sense is [`Malformed`], and such a job is dead-lettered with the header's name rather than
//! run at the wrong time. Headers that only inform are ignored when they make no sense.

pub(crate) mod dead_letter;
mod number;
mod origin;
pub(crate) mod raw;
pub(crate) mod republish;
pub(crate) mod slot;

use std::time::Duration;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use self::number::Number;
use crate::{job::JobId, outcome::ErrorKind};

/// Header names. None starts with `x-`: AMQP 1.0 conversion would move those.
pub(crate) mod header {
    pub(crate) const JOB: &str = "leveret-job";
    pub(crate) const ATTEMPT: &str = "leveret-attempt";
    pub(crate) const HOP: &str = "leveret-hop";
    pub(crate) const ENQUEUED_AT: &str = "leveret-enqueued-at";
    pub(crate) const REPLAYED_AT: &str = "leveret-replayed-at";
    pub(crate) const NOT_BEFORE: &str = "leveret-not-before";
    /// The job's own slot in the line before a rate limit (`limit::slot`).
    pub(crate) const SLOT: &str = "leveret-slot";
    pub(crate) const EXPIRES_AT: &str = "leveret-expires-at";
    pub(crate) const ERROR: &str = "leveret-error";
    pub(crate) const ERROR_KIND: &str = "leveret-error-kind";
    pub(crate) const FAILED_AT: &str = "leveret-failed-at";
    pub(crate) const QUEUE: &str = "leveret-queue";
    /// The time of a schedule at which the job was published.
    pub(crate) const FIRED_AT: &str = "leveret-fired-at";
    pub(crate) const TRACK: &str = "leveret-track";
    pub(crate) const LABEL: &str = "leveret-label";
    /// Tells a tracked job from every other that bears its id; see [`Message::origin`](super::Message::origin).
    pub(crate) const ORIGIN: &str = "leveret-origin";
    /// When a snoozing job became due, before its first snooze.
    pub(crate) const SNOOZED_SINCE: &str = "leveret-snoozed-since";
    pub(crate) const TRACEPARENT: &str = "traceparent";
    pub(crate) const TRACESTATE: &str = "tracestate";
    /// Written by streams: the number of the message.
    pub(crate) const STREAM_OFFSET: &str = "x-stream-offset";
    /// The reason, in place of the headers of a message that lapin cannot read (`lapin_guard::Markers`).
    pub(crate) const UNREADABLE: &str = "leveret-unreadable";
    /// The original properties of such a message, byte for byte, cut off at the size of a frame.
    pub(crate) const ORIGINAL: &str = "leveret-original-properties";
    /// Written by quorum queues: how often the message was handed out and came back.
    pub(crate) const DELIVERY_COUNT: &str = "x-delivery-count";
}

/// A time further ahead than this is taken for a mistake (ten years, which is also RabbitMQ's longest TTL).
const FURTHEST_AHEAD_MS: u64 = 315_360_000_000;
/// The largest header frame a copy may have. RabbitMQ's default `frame_max` is 131,072 bytes and a larger header frame
/// kills the connection; the rest is room for what brokers add on the way (`x-death` entries).
pub(crate) const COPY_HEADER_LIMIT: usize = 112 * 1024;

/// What a text from a message may have, in bytes: nobody bounds what a header says.
pub(crate) const LONGEST_NAME: usize = 255;
pub(crate) const LONGEST_LABEL: usize = 1024;
pub(crate) const LONGEST_ORIGIN: usize = 64;
const LONGEST_REASON: usize = 1024;

/// A job as bytes plus AMQP properties.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// What the framework reads of a message, apart from its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// From 1.
    pub(crate) attempt: u32,
    pub(crate) hop: u32,
    /// First publish, ms since the epoch.
    pub(crate) enqueued_at: Option<u64>,
    pub(crate) not_before: Option<u64>,
    pub(crate) expires_at: Option<u64>,
    /// When it became due before it snoozed for the first time.
    pub(crate) snoozed_since: Option<u64>,
    /// Its steps are told.
    pub(crate) track: bool,
}

impl Default for Envelope {
    /// That of a message without any framework header.
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

/// A framework header that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("header {header} is malformed: {reason}")]
pub(crate) struct Malformed {
    pub(crate) header: &'static str,
    pub(crate) reason: &'static str,
}

impl Message {
    /// A new job with the properties every job has.
    pub(crate) fn new(name: &str, id: &JobId, body: Vec<u8>, now_ms: u64) -> Self {
        Self::with_headers(name, id, body, now_ms, FieldTable::default())
    }

    /// As [`new`](Self::new), with more headers.
    pub(crate) fn with_headers(name: &str, id: &JobId, body: Vec<u8>, now_ms: u64, mut headers: FieldTable) -> Self {
        headers.insert(header::ENQUEUED_AT.into(), integer(now_ms));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_timestamp(now_ms / 1000)
            .with_type(short(name))
            .with_message_id(short(id.as_str()))
            .with_headers(headers);
        Self { properties, body: body.into() }
    }

    /// The job's name: header `leveret-job`, or property `type`, which other frameworks use for purposes of their own.
    /// A header may have any length; no job's name is longer than a property.
    pub(crate) fn job_name(&self) -> Option<&str> {
        let kind = || self.properties.kind().as_ref().map(ShortString::as_str).filter(|name| !name.is_empty());
        self.bounded(header::JOB, LONGEST_NAME).filter(|name| !name.is_empty()).or_else(kind)
    }

    /// The text to be shown with the job.
    pub(crate) fn label(&self) -> Option<&str> {
        self.bounded(header::LABEL, LONGEST_LABEL)
    }

    /// The job queue that a dead letter comes from.
    pub(crate) fn queue(&self) -> Option<&str> {
        self.bounded(header::QUEUE, LONGEST_NAME)
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(ShortString::as_str).filter(|id| !id.is_empty())
    }

    pub(crate) fn set_id(&mut self, id: &JobId) {
        self.properties = std::mem::take(&mut self.properties).with_message_id(short(id.as_str()));
    }

    pub(crate) fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    /// Sets a header, replacing one of that name. It copies all of them: where they are known beforehand,
    /// [`with_headers`](Self::with_headers) is for them.
    pub(crate) fn set_header(&mut self, name: &str, value: AMQPValue) {
        let mut headers = self.properties.headers().clone().unwrap_or_default();
        headers.insert(short(name), value);
        self.properties = std::mem::take(&mut self.properties).with_headers(headers);
    }

    pub(crate) fn remove_header(&mut self, name: &str) {
        let mut headers = self.properties.headers().clone().unwrap_or_default().inner().clone();
        headers.remove(name);
        self.properties = std::mem::take(&mut self.properties).with_headers(headers.into());
    }

    pub(crate) fn set_time(&mut self, name: &str, ms: u64) {
        self.set_header(name, integer(ms));
    }

    /// A header's text, if it is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.header(name)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            AMQPValue::ByteArray(bytes) => std::str::from_utf8(bytes.as_slice()).ok(),
            _ => None,
        }
    }

    /// A header's text as far as that many bytes: nothing else bounds what a publisher writes.
    pub(crate) fn bounded(&self, name: &str, limit: usize) -> Option<&str> {
        self.text(name).map(|text| truncated(text, limit))
    }

    /// A header's whole number, whatever its form; see [`Number`].
    pub(crate) fn number(&self, name: &str) -> Option<Result<i64, &'static str>> {
        Some(self.read_number(name)?.and_then(Number::whole))
    }

    fn read_number(&self, name: &str) -> Option<Result<Number, &'static str>> {
        let value = self.header(name)?;
        Number::of(value, || self.text(name))
    }

    /// How often a quorum queue has handed this message out before.
    pub(crate) fn delivery_count(&self) -> u32 {
        let count = self.number(header::DELIVERY_COUNT).and_then(Result::ok).unwrap_or(0);
        u32::try_from(count).unwrap_or(0)
    }

    /// What the body is in, if it is not plain JSON: a content encoding or a content type that no handler reads.
    pub(crate) fn foreign_encoding(&self) -> Option<String> {
        let among = |name: &str, known: &[&str]| known.iter().any(|known| name.eq_ignore_ascii_case(known));
        let encoding = self.properties.content_encoding().as_ref().map_or("", ShortString::as_str);
        if !among(encoding, &["", "identity", "utf-8", "utf8"]) {
            return Some(format!("content encoding {encoding:?}"));
        }
        let kind = self.properties.content_type().as_ref().map_or("", ShortString::as_str);
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let suffix = essence.rsplit_once('+').map_or("", |(_, suffix)| suffix);
        let json = among(essence, &["application/json", "", "text/json", "application/octet-stream", "text/plain"])
            || suffix.eq_ignore_ascii_case("json");
        (!json).then(|| format!("content type {kind:?}"))
    }

    /// Why this dead letter was given up: what the worker wrote, or else what the broker did.
    pub(crate) fn dead_kind(&self) -> Option<ErrorKind> {
        if self.unreadable().is_some() {
            return Some(ErrorKind::Decode);
        }
        if let Some(AMQPValue::FieldArray(deaths)) = self.header("x-death")
            && let Some(AMQPValue::FieldTable(last)) = deaths.as_slice().first()
            && let Some(AMQPValue::LongString(reason)) = last.inner().get("reason")
        {
            // The newest entry is the first. Workers reject only what they cannot copy.
            return match reason.as_bytes() {
                b"rejected" => Some(ErrorKind::TooLarge),
                b"delivery_limit" => Some(ErrorKind::CrashLoop),
                b"expired" => Some(ErrorKind::Expired),
                _ => None,
            };
        }
        self.text(header::ERROR_KIND).and_then(ErrorKind::parse)
    }

    /// Why the message's properties could not be read, if they could not: no copy of it may be made.
    pub(crate) fn unreadable(&self) -> Option<&str> {
        self.bounded(header::UNREADABLE, LONGEST_REASON)
    }

    /// Whether the broker must not dead-letter this message itself. A forged `x-death` array crashes the process that
    /// does so, and after two crashes RabbitMQ 3.10 dead-letters and delays nothing any more on that node.
    pub(crate) fn must_not_be_rejected(&self) -> bool {
        matches!(self.header("x-death"), Some(AMQPValue::FieldArray(_)))
    }

    pub(crate) fn is_transient(&self) -> bool {
        *self.properties.delivery_mode() != Some(2)
    }

    /// Reads the framework's headers. `now_ms` bounds the times that are taken for real.
    pub(crate) fn envelope(&self, now_ms: u64) -> Result<Envelope, Malformed> {
        let attempt = self.counter(header::ATTEMPT)?.unwrap_or(1);
        if attempt == 0 {
            return Err(Malformed { header: header::ATTEMPT, reason: "attempts are counted from 1" });
        }
        Ok(Envelope {
            attempt,
            hop: self.counter(header::HOP)?.unwrap_or(0),
            // A time to come would make the job younger than it is, for ever.
            enqueued_at: self.enqueued_at().map(|at| at.min(now_ms)),
            not_before: self.time(header::NOT_BEFORE, now_ms)?,
            expires_at: self.time(header::EXPIRES_AT, now_ms)?,
            snoozed_since: self.stamp(header::SNOOZED_SINCE).map(|at| at.min(now_ms)),
            track: self.is_tracked(),
        })
    }

    /// Whether the steps of this job are to be told: a boolean, a number or text.
    pub(crate) fn is_tracked(&self) -> bool {
        match self.header(header::TRACK) {
            None => false,
            Some(AMQPValue::Boolean(track)) => *track,
            Some(_) => {
                self.text(header::TRACK) == Some("true") || self.number(header::TRACK).is_some_and(|n| n == Ok(1))
            }
        }
    }

    /// When it was brought back, the last time, if it was.
    pub(crate) fn replayed_at(&self) -> Option<u64> {
        self.stamp(header::REPLAYED_AT)
    }

    pub(crate) fn enqueued_at(&self) -> Option<u64> {
        let stamped = self.stamp(header::ENQUEUED_AT);
        stamped.or_else(|| self.properties.timestamp().map(|seconds| seconds.saturating_mul(1000)))
    }

    /// A time that only informs.
    fn stamp(&self, name: &str) -> Option<u64> {
        self.read_number(name)?.and_then(Number::time).ok()?.try_into().ok()
    }

    fn counter(&self, name: &'static str) -> Result<Option<u32>, Malformed> {
        let Some(number) = self.number(name) else { return Ok(None) };
        let number = number.map_err(|reason| Malformed { header: name, reason })?;
        u32::try_from(number).map(Some).map_err(|_| Malformed { header: name, reason: "out of range" })
    }

    pub(crate) fn time(&self, name: &'static str, now_ms: u64) -> Result<Option<u64>, Malformed> {
        let Some(number) = self.read_number(name) else { return Ok(None) };
        let number = number.and_then(Number::time).map_err(|reason| Malformed { header: name, reason })?;
        match u64::try_from(number) {
            Ok(ms) if ms <= now_ms.saturating_add(FURTHEST_AHEAD_MS) => Ok(Some(ms)),
            Ok(_) => Err(Malformed { header: name, reason: "over ten years ahead" }),
            Err(_) => Err(Malformed { header: name, reason: "before 1970" }),
        }
    }

    /// When the broker would expire this message, from its `expiration` (ms as text) counted from `now_ms`.
    pub(crate) fn expiration(&self, now_ms: u64) -> Option<u64> {
        let ms: u64 = self.properties.expiration().as_ref()?.as_str().parse().ok()?;
        // A longer one is as good as none, and as a time it would be taken for a mistake.
        (ms <= FURTHEST_AHEAD_MS).then(|| now_ms.saturating_add(ms))
    }

    /// The size of the AMQP header frame's payload in bytes, an upper bound.
    pub(crate) fn header_size(&self) -> usize {
        let of = &self.properties;
        let texts = [
            of.content_type(),
            of.content_encoding(),
            of.correlation_id(),
            of.reply_to(),
            of.expiration(),
            of.message_id(),
            of.kind(),
            of.user_id(),
            of.app_id(),
            of.cluster_id(),
        ];
        let texts: usize = texts.into_iter().flatten().map(|text| text.as_str().len() + 1).sum();
        // 14 bytes of frame header, 4 of table length, and at most 10 of mode, priority and timestamp.
        28 + texts + of.headers().as_ref().map_or(0, table_size)
    }
}

fn table_size(table: &FieldTable) -> usize {
    table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + value_size(value)).sum()
}

fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldTable(table) => 4 + table_size(table),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(value_size).sum::<usize>(),
        _ => 8,
    }
}

/// A short string of `text`, cut at the wire's 255 bytes.
pub(crate) fn short(text: &str) -> ShortString {
    truncated(text, 255).into()
}

pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text.as_bytes().to_vec()))
}

pub(crate) fn integer(n: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(n).unwrap_or(i64::MAX))
}

pub(crate) fn truncated(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    &text[..text.floor_char_boundary(limit)]
}

/// Milliseconds as the wire counts them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
