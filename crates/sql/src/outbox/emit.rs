//! Events in the outbox: they are rows of its table, and a relay emits them.

use std::{collections::BTreeMap, time::SystemTime};

use leveret::{
    Emit, Event, HeaderValue, JobId, JobOptions, PublishError, Publisher, StoredJob, names,
    time::{at_unix_ms, unix_ms},
};
use serde::{Deserialize, Serialize};

use super::enqueue::{Outbox, Row, insert};
use crate::{Error, Result, db::Connection};

/// The job's name in the row of an event, whose queue is the topic.
pub(super) const EVENT: &str = "leveret.event";

/// An event for the outbox, with the options of an [emit](leveret::Emit). A reference to an event converts into one
/// without options.
///
/// ```
/// use leveret_sql::OutboxEvent;
/// # #[derive(serde::Serialize, serde::Deserialize, leveret::Event)] #[event(topic = "order.placed")]
/// # struct OrderPlaced { order: String }
///
/// let event = OutboxEvent::new(&OrderPlaced { order: "17".into() }).id("order-17-placed").order_key("order-17");
/// # let _ = event;
/// ```
#[derive(Debug)]
pub struct OutboxEvent {
    topic: String,
    payload: Result<Vec<u8>>,
    id: Option<JobId>,
    order_key: Option<String>,
    options: EventOptions,
}

/// The options as they are stored, in JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EventOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    track: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, HeaderValue>,
}

impl<E: Event> From<&E> for OutboxEvent {
    fn from(event: &E) -> Self {
        Self::new(event)
    }
}

impl OutboxEvent {
    /// Makes an entry of an event.
    pub fn new<E: Event>(event: &E) -> Self {
        Self::with(E::TOPIC.to_owned(), serde_json::to_vec(event).map_err(|error| encoding(E::TOPIC, &error)))
    }

    /// Makes an entry of an event whose type is not known here, from its topic and its payload, which must be JSON.
    ///
    /// ```
    /// let event = leveret_sql::OutboxEvent::raw("order.placed", r#"{"order": "17"}"#).track();
    /// # let _ = event;
    /// ```
    pub fn raw(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self::with(topic.into(), Ok(payload.into()))
    }

    fn with(topic: String, payload: Result<Vec<u8>>) -> Self {
        Self { topic, payload, id: None, order_key: None, options: EventOptions::default() }
    }

    /// As [`Emit::id`](leveret::Emit::id).
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(JobId::from(id.into()));
        self
    }

    /// As [`Emit::label`](leveret::Emit::label).
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.options.label = Some(label.into());
        self
    }

    /// As [`Emit::correlation_id`](leveret::Emit::correlation_id).
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.options.correlation_id = Some(id.into());
        self
    }

    /// As [`Emit::header`](leveret::Emit::header).
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.options.headers.insert(name.into(), value.into());
        self
    }

    /// As [`Emit::track`](leveret::Emit::track).
    #[must_use]
    pub fn track(mut self) -> Self {
        self.options.track = true;
        self
    }

    /// Orders emits: the event is emitted after all entries that were written before it with the same key, of 1 to 255
    /// bytes, jobs included. See [`Outbox::enqueue_ordered`](crate::Outbox::enqueue_ordered).
    #[must_use]
    pub fn order_key(mut self, key: impl Into<String>) -> Self {
        self.order_key = Some(key.into());
        self
    }

    /// Refuses here what an emit would refuse later, when the caller no longer waits.
    fn check(&self) -> Result<()> {
        let wrong = |what, value: &str, reason| {
            Err(Error::InvalidJob(PublishError::Invalid { what, value: value.to_owned(), reason }))
        };
        if let Err(reason) = names::topic(&self.topic) {
            return wrong("topic", &self.topic, reason);
        }
        let id = self.id.as_ref().map_or("minted", JobId::as_str);
        if names::event_id(id).is_err() || id.contains('\0') {
            return wrong("event id", id, "it must have 1 to 128 bytes, none of them NUL");
        }
        let key = self.order_key.as_deref().unwrap_or("none");
        if !(1..=255).contains(&key.len()) || key.contains('\0') {
            return wrong("order key", key, "it must have 1 to 255 bytes, none of them NUL");
        }
        let label = self.options.label.as_deref().unwrap_or_default();
        if label.len() > 1024 {
            return wrong("label", label, "it must have at most 1024 bytes");
        }
        let correlation = self.options.correlation_id.as_deref().unwrap_or_default();
        if correlation.len() > 255 {
            return wrong("correlation id", correlation, "it must have at most 255 bytes");
        }
        let mut names = self.options.headers.keys().map(|name| (name, names::header(name)));
        match names.find_map(|(name, rule)| Some((name, rule.err()?))) {
            Some((name, reason)) => wrong("header", name, reason),
            None => Ok(()),
        }
    }

    fn into_row(self) -> Result<Row> {
        let mut options = self.options;
        if !options.headers.contains_key("traceparent") {
            let trace = leveret::trace_headers().into_iter().map(|(name, value)| (name.to_owned(), value.into()));
            options.headers.extend(trace);
        }
        let enqueued_at = SystemTime::now();
        let options = serde_json::to_string(&options).map_err(|error| encoding(&self.topic, &error))?;
        let job = StoredJob {
            id: self.id.unwrap_or_else(JobId::mint),
            name: EVENT.into(),
            queue: self.topic.into(),
            payload: self.payload?,
            enqueued_at,
            options: JobOptions::default(),
        };
        Ok(Row { job, options, order_key: self.order_key, enqueued_at: unix_ms(enqueued_at) })
    }
}

fn encoding(topic: &str, error: &serde_json::Error) -> Error {
    Error::InvalidJob(PublishError::Encode { job: topic.to_owned(), reason: error.to_string() })
}

impl Outbox {
    /// Writes an event in a transaction, and returns its id. A [`Relay`](crate::Relay) emits the event if, and only if,
    /// the transaction commits.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize, leveret::Event)] #[event(topic = "order.placed")]
    /// # struct OrderPlaced { order: String }
    /// # async fn doc(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use leveret_sql::Outbox;
    ///
    /// let mut tx = pool.begin().await?;
    /// // … the order's row, in the same transaction …
    /// Outbox::emit(&mut tx, &OrderPlaced { order: "17".into() }).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue), whose time limit and cancel safety hold here too.
    pub async fn emit(on: &mut impl Connection, event: impl Into<OutboxEvent>) -> Result<JobId> {
        let event = event.into();
        event.check()?;
        let mut ids = insert(on, vec![event.into_row()?]).await?;
        Ok(ids.pop().unwrap_or_else(JobId::mint))
    }
}

/// The emit of a row.
///
/// # Errors
///
/// The reason why its options do not decode.
pub(super) fn emit(
    publisher: &Publisher,
    (id, topic, payload): (String, String, Vec<u8>),
    (options, enqueued_at): (&str, u64),
) -> std::result::Result<Emit, String> {
    let options: EventOptions =
        serde_json::from_str(options).map_err(|error| format!("the options of the event do not decode: {error}"))?;
    let at = at_unix_ms(enqueued_at);
    let mut emit = publisher.emit_raw(topic, payload).id(id).enqueued_at(at);
    if let Some(label) = options.label {
        emit = emit.label(label);
    }
    if let Some(id) = options.correlation_id {
        emit = emit.correlation_id(id);
    }
    if options.track {
        emit = emit.track();
    }
    Ok(options.headers.into_iter().fold(emit, |emit, (name, value)| emit.header(name, value)))
}
