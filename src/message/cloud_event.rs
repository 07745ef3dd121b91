//! CloudEvents 1.0: the JSON format (`application/cloudevents+json`), and headers that start with `cloudEvents:`.

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use lapin::types::{AMQPValue, ShortString};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    message::{Message, short},
    names,
    time::at_unix_ms,
};

/// The content type of a CloudEvent in JSON.
pub(crate) const CLOUD_EVENT: &str = "application/cloudevents+json";
/// The beginning of the content types of all formats.
const ANY_FORMAT: &str = "application/cloudevents";
const VERSION: &str = "1.0";
/// The beginning of the headers that hold attributes. The second form is for protocols without colons in names.
const PREFIXES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
const JSON: &str = "application/json";
const BYTE_ORDER_MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

/// The attributes of an event that its publisher wrote as a [CloudEvent](https://cloudevents.io) 1.0.
///
/// ```
/// use leveret::CloudEvent;
///
/// let event = CloudEvent::from_json(br#"{"specversion": "1.0", "id": "17", "source": "/shop", "type": "order.placed",
///     "time": "2026-11-21T15:00:00Z", "tenant": "acme", "data": {"order": "17"}}"#)?;
/// assert_eq!((event.id(), event.source(), event.event_type()), ("17", "/shop", "order.placed"));
/// assert_eq!((event.extension("tenant"), event.subject()), (Some("acme"), None));
/// # Ok::<_, leveret::InvalidCloudEvent>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    id: String,
    source: String,
    event_type: String,
    /// All other attributes, in their form as texts.
    others: BTreeMap<String, String>,
}

/// The reason why an event is no valid CloudEvent 1.0.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CloudEvent: {}{reason}", .attribute.map(|name| format!("{name}: ")).unwrap_or_default())]
pub struct InvalidCloudEvent {
    attribute: Option<&'static str>,
    reason: Cow<'static, str>,
}

impl CloudEvent {
    /// Reads the attributes of a CloudEvent in JSON, and checks its data.
    ///
    /// # Errors
    ///
    /// [`InvalidCloudEvent`]: it is no JSON object, a required attribute is missing or not a text, `specversion` is not
    /// 1.0, or the data is there twice or does not decode.
    pub fn from_json(body: &[u8]) -> Result<Self, InvalidCloudEvent> {
        let parts = Parts::read(body)?;
        parts.data()?;
        Ok(parts.attributes)
    }

    /// Returns the attribute `id`, which distinguishes events of one source.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the attribute `source`, a URI reference to what the event happened to.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the attribute `type`. It may differ from the topic, which alone decides where the event goes.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// Returns the attribute `subject`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.extension("subject")
    }

    /// Returns the attribute `time`, if it is there and is RFC 3339.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        let at: jiff::Timestamp = self.extension("time")?.parse().ok()?;
        Some(at_unix_ms(u64::try_from(at.as_millisecond()).ok()?))
    }

    /// Returns the attribute `dataschema`.
    #[must_use]
    pub fn data_schema(&self) -> Option<&str> {
        self.extension("dataschema")
    }

    /// Returns another attribute by its name, which has lower-case letters and digits. A number or a boolean is a text, and
    /// bytes are Base64.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.others.get(name).map(String::as_str)
    }

    /// Returns the names and values of all attributes other than `specversion`, `id`, `source` and `type`.
    pub fn extensions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.others.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the id of an event whose message has none: source and id, which together are unique. A source has no
    /// spaces, so two pairs never have one id. `None` if they are too long for an id.
    pub(crate) fn message_id(&self) -> Option<String> {
        let id = format!("{} {}", self.source, self.id);
        names::event_id(&id).is_ok().then_some(id)
    }

    /// Takes the attributes that every CloudEvent has out of all of them.
    fn of(mut others: BTreeMap<String, String>) -> Result<Self, InvalidCloudEvent> {
        let mut required = |name: &'static str| {
            let value = others.remove(name).ok_or_else(|| InvalidCloudEvent::of(name, "it is missing"))?;
            if value.is_empty() { Err(InvalidCloudEvent::of(name, "it is empty")) } else { Ok(value) }
        };
        let version = required("specversion")?;
        if version != VERSION {
            let shown: String = version.chars().take(16).collect();
            return Err(InvalidCloudEvent::of("specversion", format!("{shown:?} is not understood: send \"1.0\"")));
        }
        let (id, source, event_type) = (required("id")?, required("source")?, required("type")?);
        if !is_source(&source) {
            return Err(InvalidCloudEvent::of(
                "source",
                "it is no URI reference: it has a space or a control character",
            ));
        }
        Ok(Self { id, source, event_type, others })
    }
}

impl InvalidCloudEvent {
    fn of(attribute: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { attribute: Some(attribute), reason: reason.into() }
    }

    /// Returns the attribute at fault, unless the whole is.
    #[must_use]
    pub fn attribute(&self) -> Option<&str> {
        self.attribute
    }

    /// Returns the rule that it breaks.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// A CloudEvent in JSON, with its data as it is written.
struct Parts<'a> {
    attributes: CloudEvent,
    data: Option<&'a RawValue>,
    base64: Option<&'a RawValue>,
}

impl<'a> Parts<'a> {
    fn read(body: &'a [u8]) -> Result<Self, InvalidCloudEvent> {
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(body).map_err(|error| {
            // Only errors of syntax are free of the values.
            let reason =
                if error.is_data() { "it is no JSON object".into() } else { format!("it is no JSON: {error}") };
            InvalidCloudEvent { attribute: None, reason: reason.into() }
        })?;
        let data = members.remove("data");
        let base64 = members.remove("data_base64").filter(|value| value.get() != "null");
        for name in ["specversion", "id", "source", "type", "datacontenttype"] {
            if members.get(name).is_some_and(|value| !value.get().starts_with('"') && value.get() != "null") {
                return Err(InvalidCloudEvent::of(name, "it is not a text"));
            }
        }
        let attributes = members.into_iter().filter_map(|(name, value)| Some((name, as_text(value)?))).collect();
        Ok(Self { attributes: CloudEvent::of(attributes)?, data, base64 })
    }

    fn content_type(&self) -> &str {
        self.attributes.extension("datacontenttype").unwrap_or(JSON)
    }

    /// Returns the data: JSON as it is written, or the bytes of a text or of Base64; `null` without any.
    fn data(&self) -> Result<Cow<'a, [u8]>, InvalidCloudEvent> {
        let decoded = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
        let data = self.data.filter(|data| data.get() != "null" || self.base64.is_none());
        match (data, self.base64) {
            (Some(_), Some(_)) => Err(InvalidCloudEvent::of("data_base64", "there is data besides")),
            (None, Some(base64)) => {
                let bytes = decoded(base64).and_then(|text| BASE64_STANDARD.decode(text).ok());
                bytes.map(Cow::Owned).ok_or_else(|| InvalidCloudEvent::of("data_base64", "it is not Base64"))
            }
            (Some(data), None) if is_json(self.content_type()) => Ok(Cow::Borrowed(data.get().as_bytes())),
            (Some(data), None) => {
                let text = decoded(data).map(|text| Cow::Owned(text.into_bytes()));
                text.ok_or_else(|| {
                    InvalidCloudEvent::of("data", "it is neither JSON by its datacontenttype nor a text")
                })
            }
            (None, None) if is_json(self.content_type()) => Ok(Cow::Borrowed(b"null")),
            (None, None) => Ok(Cow::Borrowed(b"")),
        }
    }
}

/// The form of an attribute as a text; `None` for null, which counts as absent.
fn as_text(value: &RawValue) -> Option<String> {
    let text = value.get();
    (text != "null").then(|| serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()))
}

/// Returns whether data of this type is JSON: `*/json` or `*/*+json`.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let subtype = essence.rsplit_once('/').map_or("", |(_, subtype)| subtype);
    let last = subtype.rsplit_once('+').map_or(subtype, |(_, suffix)| suffix);
    last.eq_ignore_ascii_case("json")
}

impl Message {
    /// Returns the attributes of a CloudEvent, and the message with its data as the body; `None` for another message.
    pub(crate) fn open_cloud_event(&self) -> Result<Option<(CloudEvent, Self)>, InvalidCloudEvent> {
        let kind = self.properties.content_type().as_ref().map_or("", ShortString::as_str);
        if !is_cloud_event(kind) {
            return Ok(self.attributes_of_headers()?.map(|attributes| (attributes, self.clone())));
        }
        let is_json = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(CLOUD_EVENT));
        let foreign = self.foreign_encoding().or_else(|| (!is_json).then(|| format!("content type {kind:?}")));
        if let Some(foreign) = foreign {
            let reason = format!("{foreign} is not understood: send UTF-8 JSON as {CLOUD_EVENT}");
            return Err(InvalidCloudEvent { attribute: None, reason: reason.into() });
        }
        let parts = Parts::read(&self.body)?;
        let body = Bytes::from(parts.data()?.into_owned());
        let properties = self.properties.clone().with_content_type(short(parts.content_type()));
        Ok(Some((parts.attributes, Self { properties, body })))
    }

    /// Returns the attributes that stand in headers, if one of them is the version.
    fn attributes_of_headers(&self) -> Result<Option<CloudEvent>, InvalidCloudEvent> {
        let of = |name: &str| PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).map(str::to_owned);
        if !self.header_names().any(|name| of(name).is_some_and(|name| name == "specversion")) {
            return Ok(None);
        }
        let attribute = |name: &str| Some((of(name)?, self.attribute(name)?));
        CloudEvent::of(self.header_names().filter_map(attribute).collect()).map(Some)
    }

    /// The form of a header as a text.
    fn attribute(&self, name: &str) -> Option<String> {
        if let Some(text) = self.text(name) {
            return Some(text.to_owned());
        }
        match self.header(name)? {
            AMQPValue::Boolean(flag) => Some(flag.to_string()),
            AMQPValue::Timestamp(seconds) => {
                Some(jiff::Timestamp::from_second(i64::try_from(*seconds).ok()?).ok()?.to_string())
            }
            _ => Some(self.number(name)?.ok()?.to_string()),
        }
    }

    /// Gives an event without an id that of its CloudEvent, so that an inbox recognises it when it comes again. A body over
    /// `limit` bytes is not read: it will be refused.
    pub(crate) fn adopt_cloud_event_id(&mut self, limit: usize) {
        if self.id().is_none()
            && self.body.len() <= limit
            && let Ok(Some((event, _))) = self.open_cloud_event()
            && let Some(id) = event.message_id()
        {
            self.set_id(&id.into());
        }
    }
}

/// The attributes of a CloudEvent to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewCloudEvent<'a> {
    pub(crate) id: &'a str,
    pub(crate) source: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) content_type: &'a str,
    /// In milliseconds since the epoch.
    pub(crate) at: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    datacontenttype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl NewCloudEvent<'_> {
    /// Writes it in JSON, around data that is JSON by its content type, or else as Base64.
    ///
    /// # Errors
    ///
    /// Data that is no JSON, though its content type says so.
    pub(crate) fn to_json(self, data: &[u8]) -> serde_json::Result<Vec<u8>> {
        let Self { id, source, event_type, content_type, at } = self;
        let time = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        let (data, data_base64) = if is_json(content_type) {
            (Some(serde_json::from_slice(data)?), None)
        } else {
            (None, Some(BASE64_STANDARD.encode(data)))
        };
        let (specversion, time, datacontenttype) = (VERSION, time.map(|time| time.to_string()), content_type);
        serde_json::to_vec(&Written { specversion, id, source, event_type, time, datacontenttype, data, data_base64 })
    }
}

/// Returns whether a text can be the source of a CloudEvent.
pub(crate) fn is_source(text: &str) -> bool {
    !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

/// Returns whether a content type is that of a CloudEvent, in any format.
pub(crate) fn is_cloud_event(content_type: &str) -> bool {
    content_type.trim_start().to_ascii_lowercase().starts_with(ANY_FORMAT)
}

#[cfg(test)]
#[path = "cloud_event_tests.rs"]
mod tests;
