//! Whole queues, message by message, for tools that keep what they take: a status store, a desk for dead letters.
//!
//! A feed outlives lost connections. What was taken and not acked comes again, marked as redelivered: so a tool first
//! commits what it has, then acks.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;

pub use crate::message::raw::{RawMessage, Unreadable};
use crate::{
    broker::Broker,
    message::header,
    topology::{DEAD, Topology},
    tracking::status_update::StatusUpdate,
    transport::session::{Delivery, OpenError, Session},
};

/// What quorum queues write on a message that comes again.
const COUNTED: [&str; 2] = [header::DELIVERY_COUNT, "x-acquired-count"];
/// A batch has no more messages when its payloads have so many bytes.
const BATCH_BYTES: usize = 8 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a [`QueueReader`] takes.
///
/// ```
/// use leveret::reader::Source;
///
/// assert_eq!(Source::DeadLetters("email".into()).to_string(), "dead letters of \"email\"");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The steps of tracked jobs, from the queue `leveret.v1.status`, which keeps them for seven days. The first feed of
    /// this kind makes the queue: what was told before is gone.
    StatusUpdates,
    /// The dead letters of the job queue of that name.
    DeadLetters(String),
    /// Delayed jobs and dead letters whose queue is gone.
    Unrouted,
}

/// Takes messages of a queue in batches.
///
/// ```no_run
/// use leveret::{Broker, reader::{QueueReader, Source}};
/// # async fn commit(_: &leveret::reader::RawMessage) {}
///
/// # async fn doc(broker: Broker) {
/// let mut feed = QueueReader::new(&broker, Source::DeadLetters("email".into()), 500);
/// loop {
///     let batch = feed.next(100).await;
///     for taken in batch.messages() {
///         commit(taken.message()).await;
///     }
///     feed.ack(batch);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct QueueReader {
    broker: Broker,
    source: Source,
    prefetch: u16,
    session: Option<Open>,
    /// The number of the session that is open, or was last.
    opened: u64,
}

struct Open(Session);

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

/// Messages that were taken together; see [`QueueReader`].
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

/// Makes the queue of [`Source::StatusUpdates`] unless it is there: whatever is told from now on will be read.
///
/// ```
/// # async fn doc(broker: leveret::Broker) -> Result<(), String> {
/// leveret::reader::declare_status_queue(&broker).await?;
/// broker.publisher().publish_raw("email.send", "email", "{}").track().await.map_err(|error| error.to_string())?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// Why it cannot be made, in words. While the broker is away this waits.
pub async fn declare_status_queue(broker: &Broker) -> Result<(), String> {
    let plan = Topology::new(&broker.config().namespace).of_status();
    broker.transport().ensure(&plan).await.map_err(reason)
}

fn reason(error: OpenError) -> String {
    match error {
        OpenError::Fatal(error) => error.to_string(),
        OpenError::Passing(reason) => reason,
    }
}

impl QueueReader {
    /// A feed that has `prefetch` messages on their way at once, 1 to 2000; it connects with the first batch.
    #[must_use]
    pub fn new(broker: &Broker, source: Source, prefetch: u16) -> Self {
        let prefetch = prefetch.clamp(1, 2_000);
        Self { broker: broker.clone(), source, prefetch, session: None, opened: 0 }
    }

    /// Waits for a message, for ever, and returns it with those that are there besides, up to `limit` or the one that makes
    /// them 8 MiB. At most the prefetch may be taken without an ack.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what is not returned comes again.
    pub async fn next(&mut self, limit: usize) -> Batch {
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match self.fill(limit).await {
                Ok(messages) => return Batch { messages, session: self.opened },
                Err(reason) => reason,
            };
            self.session = None;
            if self.broker.log_throttle().should_log(format!("{}: {reason}", self.source)) {
                tracing::warn!(source = %self.source, error = reason, "cannot read, trying again");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
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
        // The end of a session is told again the next time.
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
                declare_status_queue(&self.broker).await?;
                topology.status()
            }
            Source::DeadLetters(queue) => format!("{queue}{DEAD}"),
            Source::Unrouted => topology.unrouted(),
        };
        self.broker.transport().open_raw(&queue, self.prefetch).await.map_err(reason)
    }

    /// Lets the broker forget a batch: to be called when it is kept elsewhere. What was taken before the connection was
    /// lost comes again all the same.
    pub fn ack(&mut self, batch: Batch) {
        let Some(Open(session)) = &mut self.session else { return };
        if batch.session == self.opened {
            for taken in batch.messages {
                session.ack(taken.tag, false);
            }
            session.flush();
        }
    }

    /// Whether messages that come now would be taken: asks the broker. Between two calls of [`next`](Self::next) that found
    /// nothing, this tells silence from deafness.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn doc(mut feed: leveret::reader::QueueReader) {
    /// while tokio::time::timeout(Duration::from_secs(60), feed.next(100)).await.is_err() {
    ///     println!("nothing new, and {}", if feed.is_listening().await { "all is well" } else { "nobody listens" });
    /// }
    /// # }
    /// ```
    pub async fn is_listening(&self) -> bool {
        match &self.session {
            Some(Open(session)) => session.round_trip().await.is_ok(),
            None => false,
        }
    }

    /// Ends the feed in good order: what was acked is forgotten, the rest is the queue's again.
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
            Self::StatusUpdates => f.write_str("steps of tracked jobs"),
            Self::DeadLetters(queue) => write!(f, "dead letters of {queue:?}"),
            Self::Unrouted => f.write_str("unrouted jobs"),
        }
    }
}

impl Batch {
    /// The messages, the oldest first.
    #[must_use]
    pub fn messages(&self) -> &[ReadMessage] {
        &self.messages
    }
}

impl ReadMessage {
    /// The message.
    #[must_use]
    pub fn message(&self) -> &RawMessage {
        &self.message
    }

    /// Whether the broker has handed it out before: it may be kept already.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// The step that the message tells; none if it tells none that can be read. Texts that are longer than any worker
    /// writes them are cut.
    #[must_use]
    pub fn event(&self) -> Option<StatusUpdate> {
        serde_json::from_slice::<StatusUpdate>(self.message.payload()).ok()?.bounded()
    }
}

impl From<Delivery> for ReadMessage {
    /// Leaves out what the broker counts in headers of its own: else a message would be another one each time it comes.
    fn from(delivery: Delivery) -> Self {
        let Delivery { tag, redelivered, mut message } = delivery;
        let headers = message.properties.headers().clone().unwrap_or_default().inner().clone();
        let kept = headers.into_iter().filter(|(name, _)| !COUNTED.contains(&name.as_str()));
        let kept: BTreeMap<_, _> = kept.collect();
        message.properties = std::mem::take(&mut message.properties).with_headers(kept.into());
        Self { tag, redelivered, message: RawMessage::from(message) }
    }
}
