//! Reads whole queues, message by message, for tools that store the messages: a status store, dead-letter tools.
//!
//! A reader survives lost connections. Messages that were read and not acked are delivered again, marked as
//! redelivered. A tool therefore first commits a batch, then acks it.

use std::{collections::BTreeMap, time::Duration};

pub use crate::message::{
    raw::{RawMessage, Unreadable},
    republish::ERROR_TEXT_LIMIT,
};
use crate::{
    backoff::Backoff,
    broker::Broker,
    error::Error,
    message::header,
    topology::{DEAD, Topology, queue::LARGEST_PREFETCH},
    tracking::status_update::StatusUpdate,
    transport::session::{Delivery, Session},
};

/// Headers that quorum queues write on a redelivered message.
const COUNTED: [&str; 2] = [header::DELIVERY_COUNT, "x-acquired-count"];
/// Bytes of payload after which a batch takes no more messages.
const BATCH_BYTES: usize = 8 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The source of a [`QueueReader`].
///
/// ```
/// use leveret::reader::Source;
///
/// assert_eq!(Source::DeadLetters("email".into()).to_string(), "dead letters of \"email\"");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Status updates of tracked jobs, from the queue `leveret.v1.status`, which keeps them for seven days. The first
    /// reader of this source declares the queue; earlier updates are lost.
    StatusUpdates,
    /// The dead letters of the job queue of that name.
    DeadLetters(String),
    /// Delayed jobs and dead letters whose queue was deleted.
    Unrouted,
    /// Workflows to start and the ends of their steps, from the queue `leveret.v1.workflows`. The reader declares the
    /// queue and the exchange that leads there.
    Workflows,
}

/// Reads messages of a queue in batches.
///
/// ```no_run
/// use leveret::{Broker, reader::{QueueReader, Source}};
/// # async fn commit(_: &leveret::reader::RawMessage) {}
///
/// # async fn doc(broker: Broker) -> Result<(), leveret::Error> {
/// let mut reader = QueueReader::new(&broker, Source::DeadLetters("email".into()), 500)?;
/// loop {
///     let batch = reader.next(100).await;
///     for read in batch.messages() {
///         commit(read.message()).await;
///     }
///     reader.ack(batch);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct QueueReader {
    broker: Broker,
    source: Source,
    prefetch: u16,
    session: Option<Open>,
    /// The number of the session that is open or was open last.
    opened: u64,
}

struct Open(Session);

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

/// Messages that were read together; see [`QueueReader`].
#[derive(Debug)]
pub struct Batch {
    messages: Vec<ReadMessage>,
    session: u64,
}

/// One message of a [`Batch`].
#[derive(Debug)]
pub struct ReadMessage {
    tag: u64,
    redelivered: bool,
    message: RawMessage,
}

/// Declares the queue of [`Source::StatusUpdates`] unless it exists. It keeps every later status update.
///
/// ```
/// # async fn doc(broker: leveret::Broker) -> Result<(), Box<dyn std::error::Error>> {
/// leveret::reader::declare_status_queue(&broker).await?;
/// broker.publisher().publish_raw("email.send", "email", "{}").track().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Error::Mismatch`] and [`Error::Undeclarable`] if the broker refuses the queue, [`Error::Unavailable`] if the next
/// attempt may succeed. Waits while the broker is unreachable.
pub async fn declare_status_queue(broker: &Broker) -> Result<(), Error> {
    let topology = Topology::new(&broker.config().namespace);
    broker.transport().ensure(&topology.of_status()).await.map_err(|error| error.of(&topology.status()))
}

impl QueueReader {
    /// Creates a reader with a prefetch of `prefetch` messages, 1 to 2000. It connects with the first batch.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a prefetch out of these bounds.
    pub fn new(broker: &Broker, source: Source, prefetch: u16) -> Result<Self, Error> {
        if !(1..=LARGEST_PREFETCH).contains(&prefetch) {
            return Err(Error::bounds("prefetch", &format!("the reader of {source}"), prefetch, "1 to 2000"));
        }
        Ok(Self { broker: broker.clone(), source, prefetch, session: None, opened: 0 })
    }

    /// Waits indefinitely for a message, and returns it with the further ones that have arrived: up to `limit` messages
    /// or the one that completes 8 MiB. At most `prefetch` messages can be unacknowledged.
    ///
    /// # Cancel safety
    ///
    /// No message is lost: messages that are not returned are delivered again.
    pub async fn next(&mut self, limit: usize) -> Batch {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let reason = match self.fill(limit).await {
                Ok(messages) => return Batch { messages, session: self.opened },
                Err(reason) => reason,
            };
            self.session = None;
            self.broker.log_throttle().log(format!("{}: {reason}", self.source), || {
                tracing::warn!(source = %self.source, error = reason, "cannot read from the queue, retrying");
            });
            backoff.sleep().await;
        }
    }

    async fn fill(&mut self, limit: usize) -> Result<Vec<ReadMessage>, String> {
        if self.session.is_none() {
            self.session = Some(Open(self.open().await?));
            self.opened += 1;
        }
        let Some(Open(session)) = &mut self.session else { return Err("no session".to_owned()) };
        let first = session.next().await.map_err(|ended| ended.to_string())?;
        let mut bytes = first.message.body.len();
        let mut messages = vec![ReadMessage::from(first)];
        // The end of a session is reported again at the next call.
        while messages.len() < limit
            && bytes < BATCH_BYTES
            && let Some(Ok(delivery)) = session.try_next()
        {
            bytes += delivery.message.body.len();
            messages.push(delivery.into());
        }
        Ok(messages)
    }

    async fn open(&self) -> Result<Session, String> {
        let topology = Topology::new(&self.broker.config().namespace);
        let queue = match &self.source {
            Source::StatusUpdates => {
                declare_status_queue(&self.broker).await.map_err(|error| error.to_string())?;
                topology.status()
            }
            Source::DeadLetters(queue) => format!("{queue}{DEAD}"),
            Source::Unrouted => topology.unrouted(),
            Source::Workflows => {
                let queue = topology.workflows();
                let ensured = self.broker.transport().ensure(&topology.shared()).await;
                ensured.map_err(|error| error.of(&queue).to_string())?;
                queue
            }
        };
        self.broker.transport().open_raw(&queue, self.prefetch).await.map_err(|error| error.to_string())
    }

    /// Acks a batch, which removes it from the queue: call it once the batch is stored elsewhere. Messages read before
    /// a lost connection are delivered again nevertheless.
    pub fn ack(&mut self, batch: Batch) {
        let Some(Open(session)) = &mut self.session else { return };
        if batch.session == self.opened {
            for read in batch.messages {
                session.ack(read.tag, false);
            }
            session.flush();
        }
    }

    /// Asks the broker whether the reader would receive new messages. Between two calls of [`next`](Self::next) without
    /// messages, this distinguishes an idle queue from a lost reader.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn doc(mut reader: leveret::reader::QueueReader) {
    /// while tokio::time::timeout(Duration::from_secs(60), reader.next(100)).await.is_err() {
    ///     println!("no messages, and the reader is {}", if reader.is_listening().await { "connected" } else { "disconnected" });
    /// }
    /// # }
    /// ```
    pub async fn is_listening(&self) -> bool {
        match &self.session {
            Some(Open(session)) => session.round_trip().await.is_ok(),
            None => false,
        }
    }

    /// Ends the reader in order: acked messages are removed, the rest is requeued.
    pub async fn close(mut self) {
        if let Some(Open(mut session)) = self.session.take() {
            session.stop().await;
            session.settled().await;
            session.close().await;
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::StatusUpdates => f.write_str("status updates"),
            Self::DeadLetters(queue) => write!(f, "dead letters of {queue:?}"),
            Self::Unrouted => f.write_str("unrouted jobs"),
            Self::Workflows => f.write_str("workflows"),
        }
    }
}

impl Batch {
    /// Returns the messages, the oldest first.
    #[must_use]
    pub fn messages(&self) -> &[ReadMessage] {
        &self.messages
    }
}

impl ReadMessage {
    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &RawMessage {
        &self.message
    }

    /// Returns the job's name, or the name of another kind of message, if it has one.
    #[must_use]
    pub fn job(&self) -> Option<&str> {
        self.message.message().job_name()
    }

    /// Returns whether the broker delivered it before: it may already be stored.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// Returns the status update in the message; `None` if it contains no readable one. Texts longer than workers write
    /// are cut.
    #[must_use]
    pub fn status_update(&self) -> Option<StatusUpdate> {
        serde_json::from_slice::<StatusUpdate>(self.message.payload()).ok()?.bounded()
    }
}

impl From<Delivery> for ReadMessage {
    /// Removes the broker's own counters from the headers; otherwise a redelivered message would differ from the
    /// original.
    fn from(delivery: Delivery) -> Self {
        let Delivery { tag, redelivered, mut message } = delivery;
        let headers = message.properties.headers().clone().unwrap_or_default().inner().clone();
        let kept = headers.into_iter().filter(|(name, _)| !COUNTED.contains(&name.as_str()));
        let kept: BTreeMap<_, _> = kept.collect();
        message.properties = std::mem::take(&mut message.properties).with_headers(kept.into());
        Self { tag, redelivered, message: RawMessage::from(message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_prefetch_that_a_quorum_queue_refuses_is_an_error_with_its_value_and_the_bounds() {
        let broker = Broker::memory();
        let reader = |prefetch| QueueReader::new(&broker, Source::DeadLetters("email".into()), prefetch);
        for prefetch in [0, 2_001, u16::MAX] {
            let error = reader(prefetch).unwrap_err().to_string();
            assert!(error.contains(&prefetch.to_string()) && error.ends_with("set 1 to 2000"), "{error}");
        }
        assert!(reader(1).is_ok() && reader(2_000).is_ok());
    }
}
