//! An event without its type.

use std::fmt;

use crate::{
    error::{Class, JobError},
    event::Event,
    message::{
        Message,
        cloud_event::CloudEvent,
        decode::{decode_as, open_cloud_event},
    },
};

/// An event as it came, for handlers of several types ([`Subscription::pattern`](crate::Subscription::pattern)).
///
/// ```
/// use leveret::{Context, Event, JobResult, RawEvent, Subscription, Worker};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)] #[event(topic = "order.placed")] struct OrderPlaced { order: String }
///
/// async fn log(event: RawEvent, _ctx: Context<()>) -> JobResult {
///     match event.topic() {
///         OrderPlaced::TOPIC => println!("order {}", event.decode::<OrderPlaced>()?.order),
///         topic => println!("{topic}: {}", event.json()?),
///     }
///     Ok(())
/// }
/// # let _ = Worker::new(()).subscribe(Subscription::new("audit").pattern("order.*"), log);
/// ```
#[derive(Clone)]
pub struct RawEvent {
    /// The data of a CloudEvent is its body.
    message: Message,
    cloud_event: Option<CloudEvent>,
}

impl RawEvent {
    pub(super) fn new(message: &Message) -> Result<Self, JobError> {
        Ok(match open_cloud_event(message)? {
            Some((event, message)) => Self { message, cloud_event: Some(event) },
            None => Self { message: message.clone(), cloud_event: None },
        })
    }

    /// Returns the topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.message.job_name().unwrap_or_default()
    }

    /// Returns the payload. For a CloudEvent that is its data, or `null` if it has none.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.message.body
    }

    /// Returns the attributes of an event whose publisher wrote it as a CloudEvent.
    ///
    /// ```
    /// # fn doc(event: &leveret::RawEvent) {
    /// let source = event.cloud_event().map_or("unknown", |attributes| attributes.source());
    /// # let _ = source; }
    /// ```
    #[must_use]
    pub fn cloud_event(&self) -> Option<&CloudEvent> {
        self.cloud_event.as_ref()
    }

    /// Reads the payload as an event of that type.
    ///
    /// # Errors
    ///
    /// An error that dead-letters the event: of another topic, or with a payload that does not decode.
    pub fn decode<E: Event>(&self) -> Result<E, JobError> {
        if self.topic() != E::TOPIC {
            let reason = format!("the event has the topic {:?}, and was read as {:?}", self.topic(), E::TOPIC);
            return Err(JobError::new(Class::Decode, reason));
        }
        decode_as(&self.message, E::TOPIC)
    }

    /// Reads the payload as JSON.
    ///
    /// # Errors
    ///
    /// An error that dead-letters the event: with a payload that is not JSON.
    pub fn json(&self) -> Result<serde_json::Value, JobError> {
        decode_as(&self.message, self.topic())
    }
}

impl fmt::Debug for RawEvent {
    /// Shows the topic and the size, and no content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawEvent")
            .field("topic", &self.topic())
            .field("bytes", &self.message.body.len())
            .finish_non_exhaustive()
    }
}
