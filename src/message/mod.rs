//! The wire contract: the form of a job in an AMQP message, the fields that a worker reads, and the fields that a copy
//! keeps.
//!
//! Reading is lenient in form: it accepts every integer width, and strings or bytes. It is strict in meaning. An
//! invalid framework header that controls a job is [`Malformed`]: the job is dead-lettered with the header's name
//! instead of running at the wrong time. Invalid headers that only inform are ignored.

pub(crate) mod cloud_event;
pub(crate) mod dead_letter;
pub(crate) mod decode;
mod envelope;
pub(crate) mod header;
mod number;
pub(crate) mod origin;
pub(crate) mod rate_slot;
pub(crate) mod raw;
pub(crate) mod reply;
pub(crate) mod republish;
pub(crate) mod step;
pub(crate) mod undecoded;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

pub(crate) use self::envelope::{Envelope, Malformed};
use self::{cloud_event::is_json, number::Number};
use crate::{job::JobId, outcome::ErrorKind};

/// The furthest valid time ahead: ten years, which is also RabbitMQ's longest TTL. A later time counts as a mistake.
const FURTHEST_AHEAD_MS: u64 = 315_360_000_000;
/// The largest header frame that a copy may have. RabbitMQ's default `frame_max` is 131,072 bytes, and a larger header
/// frame closes the connection. The difference leaves room for headers that brokers add on the way (`x-death` entries).
pub(crate) const COPY_HEADER_LIMIT: usize = 112 * 1024;

/// Most bytes read of a text from a message, because publishers may write headers of any length.
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

impl Message {
    /// Creates a job with the properties that every job has.
    pub(crate) fn new(name: &str, id: &JobId, body: Vec<u8>, now_ms: u64) -> Self {
        Self::with_headers(name, id, body, now_ms, FieldTable::default())
    }

    /// Like [`new`](Self::new), with more headers.
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

    /// Returns the job's name: header `leveret-job`, or else property `type`, which other frameworks use for their own
    /// purposes. A header may have any length, but no job's name is longer than a property.
    pub(crate) fn job_name(&self) -> Option<&str> {
        let kind = || self.properties.kind().as_ref().map(ShortString::as_str).filter(|name| !name.is_empty());
        self.bounded(header::JOB, LONGEST_NAME).filter(|name| !name.is_empty()).or_else(kind)
    }

    /// Returns the text that tools show with the job.
    pub(crate) fn label(&self) -> Option<&str> {
        self.bounded(header::LABEL, LONGEST_LABEL)
    }

    pub(crate) fn correlation_id(&self) -> Option<&str> {
        self.properties.correlation_id().as_ref().map(ShortString::as_str)
    }

    pub(crate) fn header_names(&self) -> impl Iterator<Item = &str> {
        self.properties.headers().iter().flat_map(FieldTable::inner).map(|(name, _)| name.as_str())
    }

    /// Returns the job queue that a dead letter comes from.
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

    /// Sets a header and replaces an earlier value. It copies all headers, so [`with_headers`](Self::with_headers) is
    /// for headers that are known beforehand.
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

    /// Returns a header's text, if it is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.header(name)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            AMQPValue::ByteArray(bytes) => std::str::from_utf8(bytes.as_slice()).ok(),
            _ => None,
        }
    }

    /// Returns at most `limit` bytes of a header's text, because publishers may write any length.
    pub(crate) fn bounded(&self, name: &str, limit: usize) -> Option<&str> {
        self.text(name).map(|text| truncated(text, limit))
    }

    /// Returns a header's whole number, whatever its form; see [`Number`].
    pub(crate) fn number(&self, name: &str) -> Option<Result<i64, &'static str>> {
        Some(self.read_number(name)?.and_then(Number::whole))
    }

    fn read_number(&self, name: &str) -> Option<Result<Number, &'static str>> {
        let value = self.header(name)?;
        Number::of(value, || self.text(name))
    }

    /// Returns the number of earlier deliveries of this message, as a quorum queue counts them.
    pub(crate) fn delivery_count(&self) -> u32 {
        let count = self.number(header::DELIVERY_COUNT).and_then(Result::ok).unwrap_or(0);
        u32::try_from(count).unwrap_or(0)
    }

    /// Returns the content encoding or content type of the body, if no handler reads it as plain JSON.
    pub(crate) fn foreign_encoding(&self) -> Option<String> {
        let written =
            |field: &Option<ShortString>, as_text: &str| field.as_ref().is_some_and(|text| text.as_str() == as_text);
        if written(self.properties.content_type(), "application/json") && self.properties.content_encoding().is_none() {
            return None;
        }
        let among = |name: &str, known: &[&str]| known.iter().any(|known| name.eq_ignore_ascii_case(known));
        let encoding = self.properties.content_encoding().as_ref().map_or("", ShortString::as_str);
        if !among(encoding, &["", "identity", "utf-8", "utf8"]) {
            return Some(format!("content encoding {encoding:?}"));
        }
        let kind = self.properties.content_type().as_ref().map_or("", ShortString::as_str);
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let json = is_json(kind) || among(essence, &["", "application/octet-stream", "text/plain"]);
        (!json).then(|| format!("content type {kind:?}"))
    }

    /// Returns the reason class of this dead letter: the broker's own, or else the one that the worker wrote.
    pub(crate) fn dead_kind(&self) -> Option<ErrorKind> {
        if self.unreadable().is_some() {
            return Some(ErrorKind::Decode);
        }
        if let Some(AMQPValue::FieldArray(deaths)) = self.header("x-death")
            && let Some(AMQPValue::FieldTable(last)) = deaths.as_slice().first()
            && let Some(AMQPValue::LongString(reason)) = last.inner().get("reason")
        {
            // The newest entry is the first. Workers reject only messages that they cannot copy.
            return match reason.as_bytes() {
                b"rejected" => Some(ErrorKind::TooLarge),
                b"delivery_limit" => Some(ErrorKind::CrashLoop),
                b"expired" => Some(ErrorKind::Expired),
                _ => None,
            };
        }
        self.text(header::ERROR_KIND).and_then(ErrorKind::parse)
    }

    /// Returns why the message's properties were unreadable, if they were. Such a message must not be copied.
    pub(crate) fn unreadable(&self) -> Option<&str> {
        self.bounded(header::UNREADABLE, LONGEST_REASON)
    }

    /// Returns whether the broker must not dead-letter this message itself. A forged `x-death` array crashes the
    /// broker's process that dead-letters it. After two crashes, RabbitMQ 3.10 neither dead-letters nor delays anything
    /// on that node.
    pub(crate) fn must_not_be_rejected(&self) -> bool {
        matches!(self.header("x-death"), Some(AMQPValue::FieldArray(_)))
    }

    pub(crate) fn is_transient(&self) -> bool {
        *self.properties.delivery_mode() != Some(2)
    }

    /// Returns whether the job is tracked. The header is a boolean, a number or text.
    pub(crate) fn is_tracked(&self) -> bool {
        match self.header(header::TRACK) {
            None => false,
            Some(AMQPValue::Boolean(track)) => *track,
            Some(_) => {
                self.text(header::TRACK) == Some("true") || self.number(header::TRACK).is_some_and(|n| n == Ok(1))
            }
        }
    }

    /// Returns the time of the last replay, if there was one.
    pub(crate) fn replayed_at(&self) -> Option<u64> {
        self.stamp(header::REPLAYED_AT)
    }

    pub(crate) fn enqueued_at(&self) -> Option<u64> {
        let stamped = self.stamp(header::ENQUEUED_AT);
        stamped.or_else(|| self.properties.timestamp().map(|seconds| seconds.saturating_mul(1000)))
    }

    /// Reads a time that only informs.
    fn stamp(&self, name: &str) -> Option<u64> {
        self.read_number(name)?.and_then(Number::time).ok()?.try_into().ok()
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

    /// Returns the time when the broker expires this message: its `expiration` (ms as text) counted from `now_ms`.
    pub(crate) fn expiration(&self, now_ms: u64) -> Option<u64> {
        let ms: u64 = self.properties.expiration().as_ref()?.as_str().parse().ok()?;
        // A longer expiration never takes effect, and as a time it would count as a mistake.
        (ms <= FURTHEST_AHEAD_MS).then(|| now_ms.saturating_add(ms))
    }

    /// Returns an upper bound of the AMQP header frame's payload, in bytes.
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

/// Returns `text` as a short string, cut at the wire's 255 bytes.
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

#[cfg(test)]
mod tests;
