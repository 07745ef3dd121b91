//! The log of events: a stream of all events, in the order of the broker, which tools read and replay.
//!
//! The log is the stream `leveret.v1.event-log`. Nothing declares it unless it is asked for ([`declare`]). From then on
//! it keeps every event for 30 days, which a policy on the stream can change. Events from before are not in it.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout, timeout_at};

use crate::message::raw::RawMessage;
pub use crate::topology::events::Start;
#[doc(hidden)]
pub use crate::topology::topic::Patterns;
use crate::{
    broker::Broker,
    error::Error,
    event::Event,
    message::{decode::decode_event_as, header},
    time::at_unix_ms,
    topology::Topology,
    transport::session::{Delivery, Session},
};

/// Longest wait for the first event of a log that is not empty.
const FIRST: Duration = Duration::from_secs(5);
/// Silence after which the log counts as read to its end.
const QUIET: Duration = Duration::from_millis(300);

/// Declares the log unless it exists. It keeps every later event.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use leveret::{Broker, event_log::{self, EventLog, Start}};
///
/// let broker = Broker::memory();
/// event_log::declare(&broker).await?;
/// broker.publisher().emit_raw("order.placed", r#"{"order": "17"}"#).await?;
/// let mut log = EventLog::open(&broker, Start::First).await?;
/// let event = log.next().await?;
/// assert_eq!((event.offset(), event.topic()), (0, "order.placed"));
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Error::Unavailable`] with the reason why the log cannot be declared. Waits while the broker is unreachable.
pub async fn declare(broker: &Broker) -> Result<(), Error> {
    let topology = Topology::new(&broker.config().namespace);
    let ensured = broker.transport().ensure(&topology.of_event_log()).await;
    ensured.map_err(|error| error.of(&topology.event_log()))
}

/// Returns the number of the newest event, or `None` if the log is empty, which takes 5 s to find out.
///
/// # Errors
///
/// [`Error::Unavailable`] with the reason why the log cannot be read.
pub async fn newest(broker: &Broker) -> Result<Option<u64>, Error> {
    let mut log = EventLog::open(broker, Start::Last).await?;
    let Ok(first) = timeout(FIRST, log.next()).await else { return Ok(None) };
    let mut newest = first?.offset();
    // One deadline for the rest of the last chunk: new events may arrive without a pause.
    let deadline = Instant::now() + QUIET;
    while let Ok(event) = timeout_at(deadline, log.next()).await {
        newest = newest.max(event?.offset());
    }
    Ok(Some(newest))
}

/// Returns the number of the oldest event, or `None` if the log is empty, which takes 5 s to find out.
///
/// # Errors
///
/// [`Error::Unavailable`] with the reason why the log cannot be read.
pub async fn oldest(broker: &Broker) -> Result<Option<u64>, Error> {
    let mut log = EventLog::open(broker, Start::First).await?;
    let Ok(first) = timeout(FIRST, log.next()).await else { return Ok(None) };
    Ok(Some(first?.offset()))
}

/// Reads the log from one place on.
pub struct EventLog {
    session: Session,
    name: String,
    from: u64,
}

/// An event of the log whose payload is not of its type. The text has the reason, and no value of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {offset} of the log, of topic {topic:?}, does not decode: {reason}")]
pub struct DecodeError {
    /// The number of the event.
    pub offset: u64,
    /// Its topic.
    pub topic: String,
    /// The reason.
    pub reason: String,
}

/// An event in the log.
#[derive(Clone, Debug)]
pub struct LoggedEvent {
    offset: u64,
    message: RawMessage,
}

impl EventLog {
    /// Starts to read.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the log does not exist, or the user has no right to read it. Waits while the broker is
    /// unreachable.
    pub async fn open(broker: &Broker, start: Start) -> Result<Self, Error> {
        let name = Topology::new(&broker.config().namespace).event_log();
        let session = broker.transport().open_event_log(start).await.map_err(|error| error.of(&name))?;
        // The broker delivers whole chunks.
        let from = if let Start::Offset(offset) = start { offset } else { 0 };
        Ok(Self { session, name, from })
    }

    /// Waits indefinitely for the next event.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the reader lost the log. A reader that starts at the offset after the last event goes on
    /// without a gap, as long as the log still has that event.
    ///
    /// # Cancel safety
    ///
    /// No event is lost.
    pub async fn next(&mut self) -> Result<LoggedEvent, Error> {
        loop {
            let delivered = self.session.next().await;
            let Delivery { tag, mut message, .. } =
                delivered.map_err(|ended| Error::unavailable(&self.name, ended.to_string()))?;
            // Acks of a stream only allow more deliveries.
            self.session.ack(tag, false);
            let offset = message.number(header::STREAM_OFFSET).and_then(Result::ok);
            let Some(offset) = offset.and_then(|offset| u64::try_from(offset).ok()) else { continue };
            if offset >= self.from {
                message.remove_header(header::STREAM_OFFSET);
                return Ok(LoggedEvent { offset, message: message.into() });
            }
        }
    }
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").field("from", &self.from).finish_non_exhaustive()
    }
}

impl LoggedEvent {
    /// Returns its number in the log. Numbers grow, and some are missing.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.message.message().job_name().unwrap_or_default()
    }

    /// Returns its id, if its publisher gave it one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.message.message().id()
    }

    /// Returns the time of its emit by its publisher's clock, if the publisher stated it.
    #[must_use]
    pub fn emitted_at(&self) -> Option<SystemTime> {
        self.message.message().enqueued_at().map(at_unix_ms)
    }

    /// Returns whether its topic matches a pattern.
    ///
    /// ```
    /// # fn doc(event: &leveret::event_log::LoggedEvent) -> bool {
    /// event.matches("order.*")
    /// # }
    /// ```
    #[must_use]
    pub fn matches(&self, pattern: &str) -> bool {
        crate::topology::topic::Pattern::new(pattern).matches(self.topic())
    }

    /// Returns the payload as it was published: a CloudEvent in JSON has its attributes beside the data.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.message.payload()
    }

    /// Reads the payload as an event of that type: of a CloudEvent its data.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize, leveret::Event)] #[event(topic = "order.placed")]
    /// # struct OrderPlaced { order: String }
    /// # fn doc(event: &leveret::event_log::LoggedEvent) -> Result<(), leveret::event_log::DecodeError> {
    /// let placed: OrderPlaced = event.decode()?;
    /// # let _ = placed.order;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: the event is of another topic, or its payload is not of the type.
    pub fn decode<E: Event>(&self) -> Result<E, DecodeError> {
        if self.topic() != E::TOPIC {
            return Err(self.undecodable(format!("it was read as {:?}", E::TOPIC)));
        }
        decode_event_as(self.message.message(), E::TOPIC).map_err(|error| self.undecodable(error.chain()))
    }

    /// Reads the payload as JSON: of a CloudEvent its data.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: the payload is not JSON.
    pub fn json(&self) -> Result<serde_json::Value, DecodeError> {
        decode_event_as(self.message.message(), self.topic()).map_err(|error| self.undecodable(error.chain()))
    }

    fn undecodable(&self, reason: String) -> DecodeError {
        DecodeError { offset: self.offset, topic: self.topic().to_owned(), reason }
    }

    /// Returns the event as a message, which [`Publisher::replay`](crate::Publisher::replay) publishes to one
    /// subscription.
    #[must_use]
    pub fn message(&self) -> &RawMessage {
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Serialize, serde::Deserialize, Event)]
    #[event(crate = crate, topic = "order.placed")]
    struct Placed {}

    #[tokio::test(start_paused = true)]
    async fn the_log_has_all_events_from_its_declaration_on_in_their_order() {
        let broker = Broker::memory();
        let emit = async |topic: &'static str| broker.publisher().emit_raw(topic, "{}").id(topic).await.unwrap();
        emit("before").await;
        declare(&broker).await.unwrap();
        assert_eq!(newest(&broker).await.unwrap(), None);
        for topic in ["a.1", "b.1", "a.2"] {
            emit(topic).await;
        }
        assert_eq!((oldest(&broker).await.unwrap(), newest(&broker).await.unwrap()), (Some(0), Some(2)));
        let read = async |start| {
            let mut log = EventLog::open(&broker, start).await.unwrap();
            let mut events = Vec::new();
            while let Ok(event) = timeout(QUIET, log.next()).await {
                events.push(event.unwrap());
            }
            events.iter().map(|event| (event.offset(), event.topic().to_owned())).collect::<Vec<_>>()
        };
        let all = [(0, "a.1".to_owned()), (1, "b.1".to_owned()), (2, "a.2".to_owned())];
        assert_eq!(read(Start::First).await, all);
        assert_eq!(read(Start::Offset(1)).await, all[1..]);
        assert_eq!(read(Start::Next).await, []);
        let mut log = EventLog::open(&broker, Start::Last).await.unwrap();
        let last = log.next().await.unwrap();
        assert!(last.matches("a.*") && !last.matches("b.*") && last.id() == Some("a.2"));
        assert_eq!(last.json().unwrap(), serde_json::json!({}));
        let error = last.decode::<Placed>().unwrap_err().to_string();
        assert!(error.contains("event 2") && error.contains(r#"it was read as "order.placed""#), "{error}");
        let cloud = crate::NewEvent::raw("a.3", r#"{"n": 3}"#).cloud_event("/shop");
        broker.publisher().emit(cloud).await.unwrap();
        assert_eq!(log.next().await.unwrap().json().unwrap(), serde_json::json!({"n": 3}));
    }
}
