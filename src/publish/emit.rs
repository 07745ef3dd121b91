//! One event: its options, and the message built from them.

use std::{
    borrow::Cow,
    future::IntoFuture,
    pin::Pin,
    time::{Instant, SystemTime},
};

use lapin::types::{AMQPValue, FieldTable};
use uuid::Uuid;

use crate::publish::{
    draft::{accept, require},
    header_value::HeaderValue,
    publisher::{Publisher, failure, outcome},
};
use crate::{
    error::PublishError,
    event::Event,
    job::JobId,
    message::{COPY_HEADER_LIMIT, LONGEST_LABEL, Message, header, short, text},
    names,
    time::unix_ms,
    topology::Target,
    trace::TraceSpan,
    transport::SendError,
};

impl Publisher {
    /// Publishes an event when awaited; set options before.
    ///
    /// Every subscription to the topic gets its own copy. An event without any subscription is dropped: that is no
    /// error, and `leveret_events_emitted_total` counts it as `no_subscription`.
    ///
    /// An event cannot be delayed. Publish a job with a delay, which emits the event.
    ///
    /// ```no_run
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize, leveret::Event)]
    /// #[event(topic = "order.placed")]
    /// struct OrderPlaced { order: String, customer: u64 }
    ///
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// let event = OrderPlaced { order: "17".into(), customer: 4 };
    /// publisher.emit(&event).await?;
    /// publisher.emit(&event).id("order-17-placed").header("tenant", "acme").await?;
    /// # Ok(()) }
    /// ```
    pub fn emit<E: Event>(&self, event: &E) -> Emit {
        let body = serde_json::to_vec(event);
        let encoding =
            |error: serde_json::Error| PublishError::Encode { job: E::TOPIC.to_owned(), reason: error.to_string() };
        Emit::new(self, E::TOPIC.into(), body.map_err(encoding))
    }

    /// Publishes an event without its type: by its topic and its payload, which should be JSON.
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.emit_raw("order.placed", r#"{"order": "17"}"#).await?;
    /// # Ok(()) }
    /// ```
    pub fn emit_raw(&self, topic: impl Into<Cow<'static, str>>, payload: impl Into<Vec<u8>>) -> Emit {
        Emit::new(self, topic.into(), Ok(payload.into()))
    }
}

/// One event and its options. Awaiting it sends the event and waits until the queue of each subscription has its copy.
///
/// # Errors
///
/// [`PublishError::Uncertain`] if the connection is lost, or if the queue of one subscription does not take its copy:
/// the queues of others may have theirs. Emitting the event again, with the same id, may double it there.
///
/// # Cancel safety
///
/// If it is dropped before it completes, the event may or may not be published.
#[derive(Debug)]
#[must_use = "an event is published when this is awaited"]
pub struct Emit {
    publisher: Publisher,
    topic: Cow<'static, str>,
    body: Result<Vec<u8>, PublishError>,
    id: Option<String>,
    is_tracked: bool,
    label: Option<String>,
    correlation_id: Option<String>,
    enqueued_at: Option<SystemTime>,
    headers: Vec<(String, HeaderValue)>,
}

impl Emit {
    fn new(publisher: &Publisher, topic: Cow<'static, str>, body: Result<Vec<u8>, PublishError>) -> Self {
        Self {
            publisher: publisher.clone(),
            topic,
            body,
            id: None,
            is_tracked: false,
            label: None,
            correlation_id: None,
            enqueued_at: None,
            headers: Vec::new(),
        }
    }

    /// Sets the event's id, 1 to 128 bytes; a UUIDv7 by default. Use the same id for another emit after
    /// [`PublishError::Uncertain`].
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets a text that tools show with the event, up to 1 KiB.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the property `correlation_id`, up to 255 bytes, which all copies of the event keep.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the time since which the event is on its way, for events that were stored elsewhere first; now by default.
    pub fn enqueued_at(mut self, time: SystemTime) -> Self {
        self.enqueued_at = Some(time);
        self
    }

    /// Adds a header of your own, under the rules of [`NewJob::header`](crate::NewJob::header).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Makes the worker of each subscription publish status updates, under the id `<id>@<subscription>`, and allows the
    /// event to be [cancelled](Publisher::cancel) there under that id.
    pub fn track(mut self) -> Self {
        self.is_tracked = true;
        self
    }

    /// Builds the message, checked against every rule that could refuse it later.
    fn into_message(self) -> Result<(Cow<'static, str>, JobId, Message), PublishError> {
        let (broker, body) = (&self.publisher.broker, self.body?);
        let limit = broker.config().payload_limit;
        if body.len() > limit {
            return Err(PublishError::TooLarge { part: "payload", size: body.len(), limit });
        }
        accept(names::topic, "topic", &self.topic)?;
        let id = self.id.map_or_else(JobId::mint, JobId::from);
        accept(names::event_id, "event id", id.as_str())?;
        let mut headers = FieldTable::default();
        for (name, value) in self.headers {
            accept(names::header, "header", &name)?;
            headers.insert(name.into(), value.into_amqp());
        }
        if let Some(label) = &self.label {
            require(label.len() <= LONGEST_LABEL, "label", label, "it must have at most 1024 bytes")?;
            headers.insert(header::LABEL.into(), text(label));
        }
        if self.is_tracked {
            headers.insert(header::TRACK.into(), AMQPValue::Boolean(true));
            headers.insert(header::ORIGIN.into(), text(&Uuid::new_v4().simple().to_string()));
        }
        let enqueued_at = self.enqueued_at.map_or_else(|| broker.now_ms(), unix_ms);
        let mut message = Message::with_headers(&self.topic, &id, body, enqueued_at, headers);
        if let Some(correlation) = &self.correlation_id {
            require(correlation.len() <= 255, "correlation id", correlation, "it must have at most 255 bytes")?;
            message.properties = message.properties.with_correlation_id(short(correlation));
        }
        let size = message.header_size();
        if size > COPY_HEADER_LIMIT {
            return Err(PublishError::TooLarge { part: "headers", size, limit: COPY_HEADER_LIMIT });
        }
        Ok((self.topic, id, message))
    }
}

impl IntoFuture for Emit {
    type Output = Result<JobId, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let publisher = self.publisher.clone();
            let (topic, id, message) = self.into_message()?;
            send(&publisher, &topic, id, message).await
        })
    }
}

/// Sends an event, in the trace of the message, or else of the caller, or else of the publisher, and counts the result.
async fn send(publisher: &Publisher, topic: &str, id: JobId, mut message: Message) -> Result<JobId, PublishError> {
    let (broker, started) = (&publisher.broker, Instant::now());
    let own = publisher.trace.as_ref();
    let span = TraceSpan::publish(broker, (topic, topic), &message, own);
    if message.header(header::TRACEPARENT).is_none()
        && let Some(trace) = span.trace().as_ref().or(own)
    {
        trace.write(&mut message);
    }
    let target = Target::Topic(topic.to_owned());
    let sent = span.within(broker.send(&target, Box::new(message), publisher.fail_fast)).await;
    let counted = if matches!(sent, Err(SendError::Returned)) { "no_subscription" } else { outcome(&sent) };
    broker.metrics().emitted(topic, counted).inc();
    broker.metrics().confirm.observe(started.elapsed().as_secs_f64());
    let error = match sent {
        Ok(()) | Err(SendError::Returned) => return Ok(id),
        // The queues of other subscriptions may have their copies.
        Err(SendError::Nacked) => PublishError::Uncertain { id },
        Err(error) => failure(error, topic, id, broker.config().publish_timeout),
    };
    span.not_published(counted, &error);
    Err(error)
}

#[cfg(test)]
mod tests {
    use crate::{Broker, PublishError};

    #[tokio::test]
    async fn an_event_without_a_subscription_is_no_error_and_is_counted() {
        let broker = Broker::memory();
        broker.publisher().emit_raw("order.placed", "{}").await.unwrap();
        let text = broker.metrics_text();
        let line = r#"leveret_events_emitted_total{outcome="no_subscription",topic="order.placed"} 1"#;
        assert!(text.contains(line), "{text}");
    }

    #[tokio::test]
    async fn a_topic_id_label_or_header_that_no_worker_could_read_is_refused_with_its_rule() {
        let broker = Broker::memory();
        let emit = || broker.publisher().emit_raw("order.placed", "{}");
        let topic = |topic: &'static str| broker.publisher().emit_raw(topic, "{}");
        for (emit, what) in [
            (topic("order.*"), "topic"),
            (topic("leveret.order"), "topic"),
            (emit().id("i".repeat(129)), "event id"),
            (emit().id(""), "event id"),
            (emit().label("l".repeat(1025)), "label"),
            (emit().header("leveret-attempt", 1), "header"),
            (emit().correlation_id("c".repeat(256)), "correlation id"),
        ] {
            let error = emit.await.unwrap_err();
            assert!(matches!(&error, PublishError::Invalid { what: of, .. } if *of == what), "{error}");
        }
        let id =
            emit().id("i".repeat(128)).label("l").header("tenant", "acme").correlation_id("c").track().await.unwrap();
        assert_eq!(id.as_str().len(), 128);
    }
}
