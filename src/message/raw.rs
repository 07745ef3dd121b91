//! A message in its original form, to be stored outside the broker and published again.

use std::{fmt, time::SystemTime};

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin_guard::can_be_parsed;

use crate::{
    message::{Message, dead_letter::DeadLetter, header, origin::id_in, step::StepRef},
    time::{at_unix_ms, now_ms},
};

/// The AMQP class of published messages.
const BASIC: u16 = 60;
/// Bytes before the properties in a header frame: type, channel, size; class, weight, body size.
const BEFORE: usize = 7 + 12;
/// The byte after the properties.
const FRAME_END: u8 = 0xCE;
/// Replaces a hidden value.
const MASK: &str = "***";

/// A message with all its properties and headers, byte for byte.
///
/// ```
/// use leveret::reader::RawMessage;
///
/// let properties = b"\x80\x00\x10application/json";
/// let message = RawMessage::from_parts(properties, b"{}".to_vec())?;
/// assert_eq!((message.properties().as_slice(), message.payload()), (properties.as_slice(), b"{}".as_slice()));
/// assert_eq!(message.fields(), [("content_type".to_owned(), "application/json".to_owned())]);
/// # Ok::<_, leveret::reader::Unreadable>(())
/// ```
#[derive(Clone)]
pub struct RawMessage(Message);

/// Bytes that are not AMQP 0-9-1 properties.
///
/// ```
/// # use leveret::reader::RawMessage;
/// assert!(RawMessage::from_parts(b"no", Vec::new()).is_err());
/// ```
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no properties of an AMQP 0-9-1 message")]
pub struct Unreadable;

impl RawMessage {
    /// Builds a message from properties in AMQP's own form ([`properties`](Self::properties)) and a payload.
    ///
    /// # Errors
    ///
    /// [`Unreadable`].
    pub fn from_parts(properties: &[u8], payload: Vec<u8>) -> Result<Self, Unreadable> {
        // The parser recurses, so properties that would overflow its stack never reach it.
        if !can_be_parsed(properties) {
            return Err(Unreadable);
        }
        let size = u32::try_from(properties.len() + 12).map_err(|_| Unreadable)?;
        let mut frame = vec![2, 0, 0];
        frame.extend(size.to_be_bytes());
        frame.extend(BASIC.to_be_bytes());
        frame.extend([0; 10]);
        frame.extend(properties);
        frame.push(FRAME_END);
        match parse_frame(frame.as_slice()) {
            Ok(([], AMQPFrame::Header(_, header))) => {
                Ok(Self(Message { properties: header.properties, body: payload.into() }))
            }
            _ => Err(Unreadable),
        }
    }

    /// Returns its properties and headers as they are sent: flags, then values (AMQP 0-9-1, 4.2.6.1).
    #[must_use]
    pub fn properties(&self) -> Vec<u8> {
        let properties = self.0.properties.clone();
        let header = AMQPContentHeader { class_id: BASIC, body_size: 0, properties };
        let frame = AMQPFrame::Header(0, header);
        // Writing into memory does not fail.
        let written = gen_frame(&frame)(WriteContext::from(Vec::new())).map(|context| context.into_inner().0);
        let mut bytes = written.unwrap_or_default();
        bytes.pop();
        bytes.drain(..BEFORE.min(bytes.len()));
        bytes
    }

    /// Returns the original payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.body
    }

    /// Returns its content as a dead letter.
    #[must_use]
    pub fn dead_letter(&self) -> DeadLetter {
        DeadLetter::read(&self.0, now_ms())
    }

    /// Returns the number of earlier copies of the job.
    #[must_use]
    pub fn hop(&self) -> u32 {
        self.0.envelope(now_ms()).map_or(0, |envelope| envelope.hop)
    }

    /// Returns the text that tools show with the job.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.label()
    }

    /// Returns the value that distinguishes the job from others with the same id; see
    /// [`NewJob::origin`](crate::NewJob::origin).
    #[must_use]
    pub fn origin(&self) -> String {
        self.0.origin().into_owned()
    }

    /// Returns the digest of the origin, as the job's status updates have it
    /// ([`StatusUpdate::origin`](crate::status_update::StatusUpdate::origin)).
    #[must_use]
    pub fn origin_digest(&self) -> String {
        self.0.origin_digest()
    }

    /// Returns the step of a workflow that the job is; `None` for a job that was published by itself.
    #[must_use]
    pub fn step(&self) -> Option<StepRef> {
        self.0.step()
    }

    /// Returns the time of the last replay of the job, if there was one.
    #[must_use]
    pub fn replayed_at(&self) -> Option<SystemTime> {
        self.0.replayed_at().map(at_unix_ms)
    }

    /// Returns whether the job's status updates are published.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.0.is_tracked()
    }

    /// Returns the id under which status updates know the message in `queue`: its own, or `<id>@<queue>` for a copy of an
    /// event in that subscription. `None` if it has no id.
    ///
    /// ```
    /// # use leveret::reader::RawMessage;
    /// let with_id = b"\x00\x80\x08order-17";
    /// let message = RawMessage::from_parts(with_id, b"{}".to_vec())?;
    /// assert_eq!(message.tracking_id("warehouse").as_deref(), Some("order-17"));
    /// # Ok::<_, leveret::reader::Unreadable>(())
    /// ```
    #[must_use]
    pub fn tracking_id(&self, queue: &str) -> Option<String> {
        let id = self.0.id()?;
        Some(if self.0.is_event_in(queue) { id_in(queue, id) } else { id.to_owned() })
    }

    /// Returns the job queue that a dead letter comes from, if the message names it.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.0.queue()
    }

    /// Returns the original properties and headers of an unreadable message, in the form of
    /// [`properties`](Self::properties). `None` if they were readable. This message then has only the readable part. If
    /// its header frame is as long as a connection allows, the end may be cut off.
    ///
    /// ```
    /// # use leveret::reader::RawMessage;
    /// let message = RawMessage::from_parts(b"\x00\x00", b"{}".to_vec())?;
    /// assert_eq!(message.unreadable_properties(), None);
    /// # Ok::<_, leveret::reader::Unreadable>(())
    /// ```
    #[must_use]
    pub fn unreadable_properties(&self) -> Option<&[u8]> {
        match self.0.header(header::ORIGINAL)? {
            AMQPValue::ByteArray(bytes) => Some(bytes.as_slice()),
            _ => None,
        }
    }

    /// Returns the time of dead-lettering, if the message states it.
    #[must_use]
    pub fn failed_at(&self) -> Option<SystemTime> {
        self.0.number(header::FAILED_AT).and_then(Result::ok).and_then(|at| u64::try_from(at).ok()).map(at_unix_ms)
    }

    /// Returns all properties and then all headers as text.
    #[must_use]
    pub fn fields(&self) -> Vec<(String, String)> {
        self.fields_without(|_| false)
    }

    /// Like [`fields`](Self::fields), with `***` for the value of each name for which `is_secret` returns true. It also
    /// applies within tables in headers.
    #[must_use]
    pub fn fields_without(&self, is_secret: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let of = &self.0.properties;
        let texts: [(&str, &Option<ShortString>); 10] = [
            ("type", of.kind()),
            ("message_id", of.message_id()),
            ("content_type", of.content_type()),
            ("content_encoding", of.content_encoding()),
            ("correlation_id", of.correlation_id()),
            ("reply_to", of.reply_to()),
            ("expiration", of.expiration()),
            ("user_id", of.user_id()),
            ("app_id", of.app_id()),
            ("cluster_id", of.cluster_id()),
        ];
        let numbers = [
            ("priority", of.priority().map(u64::from)),
            ("delivery_mode", of.delivery_mode().map(u64::from)),
            ("timestamp", *of.timestamp()),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.as_ref()?.to_string())));
        let numbers = numbers.into_iter().filter_map(|(name, number)| Some((name.to_owned(), number?.to_string())));
        let headers = of.headers().iter().flat_map(FieldTable::inner);
        // The content of unreadable properties is unknown, so only their size is shown.
        let shown = |(name, value): (&ShortString, &AMQPValue)| match value {
            AMQPValue::ByteArray(bytes) if name.as_str() == header::ORIGINAL => {
                (name.to_string(), format!("{} bytes", bytes.len()))
            }
            value => (name.to_string(), shown(value, &is_secret)),
        };
        let fields = texts.chain(numbers).chain(headers.map(shown));
        fields.map(|(name, value)| if is_secret(&name) { (name, MASK.to_owned()) } else { (name, value) }).collect()
    }

    pub(crate) fn message(&self) -> &Message {
        &self.0
    }
}

impl From<Message> for RawMessage {
    fn from(message: Message) -> Self {
        Self(message)
    }
}

impl fmt::Debug for RawMessage {
    /// Shows the job's name, id and size, and no content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawMessage")
            .field("job", &self.0.job_name())
            .field("id", &self.0.id())
            .field("bytes", &self.0.body.len())
            .finish_non_exhaustive()
    }
}

/// Returns a header's value as readable text.
fn shown(value: &AMQPValue, is_secret: &dyn Fn(&str) -> bool) -> String {
    match value {
        AMQPValue::Boolean(flag) => flag.to_string(),
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into_owned(),
        AMQPValue::ShortShortInt(n) => n.to_string(),
        AMQPValue::ShortShortUInt(n) => n.to_string(),
        AMQPValue::ShortInt(n) => n.to_string(),
        AMQPValue::ShortUInt(n) => n.to_string(),
        AMQPValue::LongInt(n) => n.to_string(),
        AMQPValue::LongUInt(n) => n.to_string(),
        AMQPValue::LongLongInt(n) => n.to_string(),
        AMQPValue::Timestamp(n) => n.to_string(),
        AMQPValue::Float(n) => n.to_string(),
        AMQPValue::Double(n) => n.to_string(),
        AMQPValue::Void => String::new(),
        AMQPValue::FieldArray(array) => {
            let items: Vec<_> = array.as_slice().iter().map(|value| shown(value, is_secret)).collect();
            format!("[{}]", items.join(", "))
        }
        AMQPValue::FieldTable(table) => {
            let item = |(name, value): (&ShortString, &AMQPValue)| {
                let value = if is_secret(name.as_str()) { MASK.to_owned() } else { shown(value, is_secret) };
                format!("{name}: {value}")
            };
            let items: Vec<_> = table.inner().iter().map(item).collect();
            format!("{{{}}}", items.join(", "))
        }
        AMQPValue::DecimalValue(n) => format!("{} / 10^{}", n.value, n.scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns properties with a header table of one name.
    fn with_header(value: &[u8]) -> Vec<u8> {
        let table = [b"\x04deep".as_slice(), value].concat();
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        [b"\x20\x00".as_slice(), &length, &table].concat()
    }

    /// Returns nested arrays or tables.
    fn nested(kind: u8, depth: usize) -> Vec<u8> {
        let name: &[u8] = if kind == b'F' { b"\x01n" } else { b"" };
        (1..depth).fold(vec![kind, 0, 0, 0, 0], |value, _| {
            let length = u32::try_from(name.len() + value.len()).unwrap().to_be_bytes();
            [&[kind], length.as_slice(), name, &value].concat()
        })
    }

    #[test]
    fn deeply_nested_properties_are_refused_and_overflow_no_stack() {
        for (depth, is_readable) in [(3, true), (3_000, false)] {
            for kind in [b'A', b'F'] {
                let properties = with_header(&nested(kind, depth));
                assert_eq!(RawMessage::from_parts(&properties, Vec::new()).is_ok(), is_readable, "{depth}");
            }
        }
    }

    #[test]
    fn a_secret_is_hidden_in_tables_within_headers() {
        let text = |name: &str, text: &str| {
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            [&[u8::try_from(name.len()).unwrap()], name.as_bytes(), b"S", &length, text.as_bytes()].concat()
        };
        let table = [text("password", "hunter2"), text("user", "ada")].concat();
        let inner = [b"F".as_slice(), &u32::try_from(table.len()).unwrap().to_be_bytes(), &table].concat();
        let array = [b"A".as_slice(), &u32::try_from(inner.len()).unwrap().to_be_bytes(), &inner].concat();
        let message = RawMessage::from_parts(&with_header(&array), Vec::new()).unwrap();
        let shown = message.fields_without(|name| name == "password");
        assert_eq!(shown, [("deep".to_owned(), "[{password: ***, user: ada}]".to_owned())]);
        assert!(message.fields()[0].1.contains("hunter2"));
    }
}
