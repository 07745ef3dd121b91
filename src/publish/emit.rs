//! One emit: an event and its publisher, to be awaited.

use std::{
    borrow::Cow,
    future::IntoFuture,
    pin::Pin,
    time::{Instant, SystemTime},
};

use crate::publish::{
    header_value::HeaderValue,
    new_event::NewEvent,
    publisher::{Publisher, failure, outcome},
};
use crate::{
    error::PublishError,
    job::JobId,
    message::{Message, header},
    topology::Target,
    trace::TraceSpan,
    transport::SendError,
};

impl Publisher {
    /// Publishes an event when awaited; set options before. It takes a reference to an [`Event`](crate::Event), or a
    /// [`NewEvent`].
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
    pub fn emit(&self, event: impl Into<NewEvent>) -> Emit {
        Emit { publisher: self.clone(), new: event.into() }
    }

    /// Publishes an event without its type, like [`NewEvent::raw`].
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.emit_raw("order.placed", r#"{"order": "17"}"#).await?;
    /// # Ok(()) }
    /// ```
    pub fn emit_raw(&self, topic: impl Into<Cow<'static, str>>, payload: impl Into<Vec<u8>>) -> Emit {
        self.emit(NewEvent::raw(topic, payload))
    }
}

/// One emit of a [`NewEvent`]. Its setters are those of the event. Awaiting it sends the event and waits until the queue
/// of each subscription has its copy.
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
    new: NewEvent,
}

/// Defines setters of [`Emit`] as those of [`NewEvent`].
macro_rules! setters {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        impl Emit {$(
            #[doc = concat!("See [`NewEvent::", stringify!($name), "`](NewEvent::", stringify!($name), ").")]
            pub fn $name(mut self, $($argument: $type),*) -> Self {
                self.new = self.new.$name($($argument),*);
                self
            }
        )*}
    };
}

setters! {
    id(id: impl Into<String>);
    label(label: impl Into<String>);
    correlation_id(id: impl Into<String>);
    content_type(content_type: impl Into<String>);
    cloud_event(source: impl Into<String>);
    enqueued_at(time: SystemTime);
    header(name: impl Into<String>, value: impl Into<HeaderValue>);
    track();
}

impl IntoFuture for Emit {
    type Output = Result<JobId, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { publisher, new } = self;
        Box::pin(async move {
            let topic = new.topic.clone();
            let (id, message) = new.into_message(publisher.broker.config().payload_limit, publisher.now_ms())?;
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
    use crate::Broker;

    #[tokio::test]
    async fn an_event_without_a_subscription_is_no_error_and_is_counted() {
        let broker = Broker::memory();
        broker.publisher().emit_raw("order.placed", "{}").await.unwrap();
        let text = broker.metrics_text();
        let line = r#"leveret_events_emitted_total{outcome="no_subscription",topic="order.placed"} 1"#;
        assert!(text.contains(line), "{text}");
    }
}
