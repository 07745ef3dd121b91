//! The description of an event to emit: plain data that every way to emit takes.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::publish::{header_value::HeaderValue, new_job::new_origin, options::payload};
use crate::{
    error::PublishError,
    event::Event,
    job::JobId,
    message::cloud_event::{CLOUD_EVENT, CloudEvent, InvalidCloudEvent},
    time::{at_unix_ms, unix_ms},
};

/// An event to emit, with its options, as plain data.
///
/// [`Publisher::emit`](crate::Publisher::emit), the outbox of `leveret-sql`, the HTTP API and the command line all take
/// this type. A reference to an [`Event`] converts into it, without options.
///
/// The setters can be called in any order. A setter only stores its value; each of these ways checks all values before
/// anything is sent or stored, and returns an error that names the first invalid one.
///
/// ```
/// use leveret::NewEvent;
/// # #[derive(serde::Serialize, serde::Deserialize, leveret::Event)] #[event(topic = "order.placed")]
/// # struct OrderPlaced { order: String }
///
/// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
/// let event = NewEvent::of(&OrderPlaced { order: "17".into() }).header("tenant", "acme");
/// if let Err(leveret::PublishError::Uncertain { .. }) = publisher.emit(event.clone()).await {
///     publisher.emit(event.clone()).await?;       // the same event: its id is that of the first emit
/// }
///
/// let json = serde_json::to_string(&event).expect("its payload is JSON");         // to keep it elsewhere
/// assert_eq!(serde_json::from_str::<NewEvent>(&json).expect("it was written above"), event);
/// # Ok(()) }
/// ```
///
/// # Identity
///
/// A description is one event. Its id, and the random value that distinguishes a tracked event from others with the same
/// id, are set when it is made. All clones of it and all its emits have both, so that an inbox drops a repeat. Two
/// descriptions of one `&E` are two events, unless you give them one [`id`](Self::id).
///
/// # Form in JSON
///
/// An object with the members `topic`, `payload` (a text, or a list of bytes that are no text), `id`, and if they are set
/// `enqueued_at` and `options`. Without an `id` each reading makes another event. Unknown members are errors. An event
/// whose payload did not serialise has no form in JSON.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "an event is emitted by a publisher"]
pub struct NewEvent {
    pub(super) topic: Cow<'static, str>,
    /// The payload, or the reason why the event does not serialise.
    #[serde(with = "payload")]
    pub(super) payload: Result<Vec<u8>, String>,
    #[serde(default = "new_id")]
    pub(super) id: String,
    /// The first enqueue in milliseconds since the epoch, for events that were stored elsewhere first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) enqueued_at: Option<u64>,
    #[serde(default, skip_serializing_if = "EventOptions::is_empty")]
    pub(super) options: EventOptions,
}

/// The options of a [`StoredEvent`]: how it is emitted, apart from its topic and payload.
///
/// Its form in JSON is an object of the options that are set. Unknown members are errors, so that a program of an older
/// version does not emit an event without an option that it does not know.
///
/// ```
/// use leveret::EventOptions;
///
/// let options: EventOptions = serde_json::from_str(r#"{"label": "17", "headers": {"tenant": "acme"}}"#)?;
/// assert_eq!(serde_json::to_string(&options)?, r#"{"label":"17","headers":{"tenant":"acme"}}"#);
/// assert!(serde_json::from_str::<EventOptions>(r#"{"priority": 5}"#).is_err());
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    /// The source of the CloudEvent that the payload is put into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cloud_event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) track: bool,
    /// The value that distinguishes a tracked event from others with the same id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<String, HeaderValue>,
}

impl EventOptions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for EventOptions {
    /// Shows no text of the publisher's, such as a header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventOptions").field("track", &self.track).finish_non_exhaustive()
    }
}

/// An event in the form of a store: checked, with a time, so that it can be emitted later.
///
/// [`NewEvent::into_stored`] makes it. It converts back into the [`NewEvent`] to emit.
///
/// ```
/// use std::time::SystemTime;
/// use leveret::NewEvent;
///
/// let new = NewEvent::raw("order.placed", "{}").id("order-17-placed").label("17");
/// let stored = new.into_stored(SystemTime::UNIX_EPOCH)?;
/// assert_eq!((stored.id.as_str(), stored.payload.as_slice()), ("order-17-placed", b"{}".as_slice()));
/// assert_eq!(serde_json::to_string(&stored.options)?, r#"{"label":"17"}"#);
/// let to_emit: NewEvent = stored.into();
/// # let _ = to_emit;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct StoredEvent {
    /// The event's id.
    pub id: JobId,
    /// The topic.
    pub topic: Cow<'static, str>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The time since which the event is on its way.
    pub enqueued_at: SystemTime,
    /// All else.
    pub options: EventOptions,
}

impl fmt::Debug for StoredEvent {
    /// Shows the topic, id and size, and none of its contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredEvent")
            .field("topic", &self.topic)
            .field("id", &self.id)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl From<StoredEvent> for NewEvent {
    fn from(stored: StoredEvent) -> Self {
        let StoredEvent { id, topic, payload, enqueued_at, options } = stored;
        let (id, enqueued_at) = (id.as_str().to_owned(), Some(unix_ms(enqueued_at)));
        Self { topic, payload: Ok(payload), id, enqueued_at, options }
    }
}

impl<E: Event> From<&E> for NewEvent {
    fn from(event: &E) -> Self {
        Self::of(event)
    }
}

impl NewEvent {
    /// Describes an event of this type.
    pub fn of<E: Event>(event: &E) -> Self {
        Self::new(E::TOPIC.into(), serde_json::to_vec(event).map_err(|error| error.to_string()))
    }

    /// Describes an event without its type: by its topic and its payload, which should be JSON.
    ///
    /// ```
    /// let new = leveret::NewEvent::raw("order.placed", r#"{"order": "17"}"#).track();
    /// # let _ = new;
    /// ```
    pub fn raw(topic: impl Into<Cow<'static, str>>, payload: impl Into<Vec<u8>>) -> Self {
        Self::new(topic.into(), Ok(payload.into()))
    }

    /// Describes an event that is a CloudEvent in JSON (`application/cloudevents+json`) already. It is emitted as it is.
    ///
    /// The topic is the attribute `type`. The id has the attributes `source` and `id`, which together are unique:
    /// `/shop 17`. If this is longer than an id can be, it is a UUIDv7.
    ///
    /// ```
    /// use leveret::NewEvent;
    ///
    /// let json = r#"{"specversion": "1.0", "id": "17", "source": "/shop", "type": "order.placed", "data": {}}"#;
    /// assert_eq!(NewEvent::from_cloud_event(json)?.topic(), "order.placed");
    /// assert!(NewEvent::from_cloud_event(r#"{"specversion": "0.3"}"#).is_err());
    /// # Ok::<_, leveret::InvalidCloudEvent>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`CloudEvent::from_json`].
    pub fn from_cloud_event(json: impl Into<Vec<u8>>) -> Result<Self, InvalidCloudEvent> {
        let json = json.into();
        let event = CloudEvent::from_json(&json)?;
        let new = Self::raw(event.event_type().to_owned(), json).content_type(CLOUD_EVENT);
        Ok(event.message_id().into_iter().fold(new, Self::id))
    }

    fn new(topic: Cow<'static, str>, payload: Result<Vec<u8>, String>) -> Self {
        Self { topic, payload, id: new_id(), enqueued_at: None, options: EventOptions::default() }
    }

    /// Returns the topic.
    ///
    /// ```
    /// assert_eq!(leveret::NewEvent::raw("order.placed", "{}").topic(), "order.placed");
    /// ```
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Sets the event's id, 1 to 128 bytes; a UUIDv7 by default.
    ///
    /// An id that follows from the cause, such as `order-17-placed`, is also the same after a restart of the program.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets a text that tools show with the event, up to 1 KiB.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.options.label = Some(label.into());
        self
    }

    /// Sets the property `correlation_id`, up to 255 bytes, which all copies of the event keep.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.options.correlation_id = Some(id.into());
        self
    }

    /// Sets the property `content_type`, up to 255 bytes; `application/json` by default. Typed handlers read JSON only.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.options.content_type = Some(content_type.into());
        self
    }

    /// Puts the payload into a [CloudEvent](https://cloudevents.io) 1.0 in JSON, for consumers that expect one. Leveret's
    /// subscriptions understand both forms.
    ///
    /// The source is a URI reference to what emits, such as `/shop` or `https://shop.example.com/orders`. The other
    /// attributes are the id, the topic as `type`, the time of the emit ([`enqueued_at`](Self::enqueued_at)) and the
    /// [content type](Self::content_type). A payload of another content type than JSON becomes Base64.
    ///
    /// ```
    /// let new = leveret::NewEvent::raw("order.placed", r#"{"order": "17"}"#).cloud_event("/shop");
    /// # let _ = new;
    /// ```
    pub fn cloud_event(mut self, source: impl Into<String>) -> Self {
        self.options.cloud_event = Some(source.into());
        self
    }

    /// Sets the time since which the event is on its way, for events that were stored elsewhere first; the time of the
    /// emit by default.
    pub fn enqueued_at(mut self, time: SystemTime) -> Self {
        self.enqueued_at = Some(unix_ms(time));
        self
    }

    /// Sets a header of your own, which all copies of the event keep, under the rules of
    /// [`NewJob::header`](crate::NewJob::header).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.options.headers.insert(name.into(), value.into());
        self
    }

    /// Makes the worker of each subscription publish status updates, under the id `<id>@<subscription>`, and allows the
    /// event to be [cancelled](crate::Publisher::cancel) there under that id.
    pub fn track(mut self) -> Self {
        self.options.track = true;
        self.options.origin.get_or_insert_with(new_origin);
        self
    }

    /// Returns the payload.
    ///
    /// # Errors
    ///
    /// [`PublishError::Encode`] for an event that does not serialise.
    pub(super) fn payload(&self) -> Result<&[u8], PublishError> {
        let error = |reason: &String| PublishError::Encode { job: self.topic.to_string(), reason: reason.clone() };
        self.payload.as_deref().map_err(error)
    }

    pub(super) fn stored_at(&self, now: SystemTime) -> SystemTime {
        self.enqueued_at.map_or(now, at_unix_ms)
    }
}

impl fmt::Debug for NewEvent {
    /// Shows the topic, id and size, and none of its contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent")
            .field("topic", &self.topic)
            .field("id", &self.id)
            .field("bytes", &self.payload.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

fn new_id() -> String {
    JobId::mint().as_str().to_owned()
}

#[cfg(test)]
#[path = "new_event_tests.rs"]
mod tests;
