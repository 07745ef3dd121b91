//! The catalogue of jobs that workers can run. Each worker announces its jobs when it starts, on the stream
//! `leveret.v1.catalogue`, unless the stream has them already. Entries stay while no worker runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    backoff::Backoff,
    broker::Broker,
    job::JobId,
    message::{LONGEST_NAME, Message},
    time::{at_unix_ms, unix_ms},
    topology::{Stream, Target},
    tracking::stream::{Reading, follow},
    transport::SendError,
};

/// The property `type` of an announcement.
const ENTRY: &str = "leveret.job";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A broker that refuses a publish closes the channel with all its publishes.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Most jobs kept. No installation has so many, but any user with write permission on the stream could announce them.
const MOST_ENTRIES: usize = 10_000;

/// A job on a queue, as a worker announced it.
///
/// ```
/// # use leveret::catalogue::CatalogueEntry;
/// let json = r#"{"job": "email.send", "queue": "email", "timeout_ms": 30000, "max_attempts": 20, "announced_at": 0}"#;
/// let entry: CatalogueEntry = serde_json::from_str(json)?;
/// assert!(entry.schema.is_none());
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// The job's name.
    pub job: String,
    /// The queue that its workers consume.
    pub queue: String,
    /// True if that queue has lanes by priority ([`Queue::lanes`](crate::Queue::lanes)).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lanes: bool,
    /// True if one consumer has that queue at a time ([`Queue::single_active`](crate::Queue::single_active)).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub single_active: bool,
    /// True if another system owns that queue ([`Queue::existing`](crate::Queue::existing)).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub existing: bool,
    /// True if the queue is a [subscription](crate::Subscription), and `job` a topic or a pattern.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub event: bool,
    /// The number of waiting events that the subscription keeps ([`Subscription::keep_last`](crate::Subscription::keep_last)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u32>,
    /// The JSON Schema of its payload ([`Job::schema`](crate::Job::schema)); without it, any payload may be valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// The timeout of an attempt, in whole milliseconds; `timeout_ms` in JSON.
    #[serde(rename = "timeout_ms", with = "crate::time::wire_duration")]
    pub timeout: Duration,
    /// The largest number of attempts.
    pub max_attempts: u32,
    /// The time of the first announcement in this form, in whole milliseconds; those since the epoch in JSON.
    #[serde(with = "crate::time::wire")]
    pub announced_at: SystemTime,
}

impl CatalogueEntry {
    fn is_same(&self, other: &Self) -> bool {
        Self { announced_at: other.announced_at, ..self.clone() } == *other
    }
}

/// The content of the catalogue, kept up to date while a clone of this exists. Clones are cheap.
///
/// ```
/// # use leveret::{Broker, Context, JobResult, Worker, catalogue::Catalogue, testing};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "greet", queue = "greetings")]
/// # struct Greet { name: String }
/// # async fn greet(_: Greet, _: Context<()>) -> JobResult { Ok(()) }
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::memory();
/// let catalogue = Catalogue::follow(&broker);
/// let running = testing::start(Worker::new(()).handle(greet), &broker).await?;
/// assert_eq!(catalogue.wait_for("greet").await.queue, "greetings");
/// assert_eq!(catalogue.entries().len(), 1);
/// # running.stop().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Catalogue {
    shared: Arc<Shared>,
    _reader: Arc<AbortOnDropHandle<()>>,
}

/// Entries by job, then queue; each with its number in the order of the stream.
type Entries = BTreeMap<(String, String), (u64, Arc<CatalogueEntry>)>;

#[derive(Debug, Default)]
struct Shared {
    entries: RwLock<Entries>,
    reading: watch::Sender<Reading>,
    changes: watch::Sender<u64>,
}

impl Catalogue {
    /// Starts to read the catalogue.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[must_use]
    pub fn follow(broker: &Broker) -> Self {
        let shared = Arc::new(Shared::default());
        let (filled, broker) = (Arc::clone(&shared), broker.clone());
        let reader = tokio::spawn(async move {
            let add = |message: &Message| filled.add(message, broker.now_ms());
            follow(broker.transport(), Stream::Catalogue, &filled.reading, add).await;
        });
        Self { shared, _reader: Arc::new(AbortOnDropHandle::new(reader)) }
    }

    /// Waits until every earlier announcement has been read, and returns true. Returns false if the broker refuses to
    /// let the catalogue be read. A warning is logged then, and the read is retried continually.
    pub async fn ready(&self) -> bool {
        let mut reading = self.shared.reading.subscribe();
        // The sender lives as long as this.
        reading.wait_for(|reading| *reading != Reading::Behind).await.is_ok_and(|now| *now == Reading::CaughtUp)
    }

    /// Waits until a job with that name is announced.
    pub async fn wait_for(&self, job: &str) -> Arc<CatalogueEntry> {
        let mut changes = self.shared.changes.subscribe();
        loop {
            if let Some(entry) = self.find(job) {
                return entry;
            }
            // The sender lives as long as this.
            drop(changes.changed().await);
        }
    }

    /// Returns the job with that name; topics are no jobs. If several queues have it, returns the one announced last,
    /// in the order of the stream.
    #[must_use]
    pub fn find(&self, job: &str) -> Option<Arc<CatalogueEntry>> {
        let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
        let found = entries.range((job.to_owned(), String::new())..).take_while(|((name, _), _)| name == job);
        let found = found.filter(|(_, (_, entry))| !entry.event);
        found.map(|(_, entry)| entry).max_by_key(|(number, _)| *number).map(|(_, entry)| Arc::clone(entry))
    }

    /// Returns whether jobs of that name use the [lanes](crate::Queue::lanes) of that queue, as its workers announced.
    /// For a job that they did not announce, returns whether any job of the queue does.
    #[must_use]
    pub fn has_lanes(&self, job: &str, queue: &str) -> bool {
        let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
        let own = entries.get(&(job.to_owned(), queue.to_owned()));
        let any = || entries.values().any(|(_, entry)| entry.queue == queue && entry.lanes);
        own.map_or_else(any, |(_, entry)| entry.lanes)
    }

    /// Returns whether this is a subscription, as its workers announced.
    #[must_use]
    pub fn is_subscription(&self, queue: &str) -> bool {
        let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().any(|(_, entry)| entry.event && entry.queue == queue)
    }

    /// Returns all jobs, by name and then by queue.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<CatalogueEntry>> {
        let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|(_, entry)| Arc::clone(entry)).collect()
    }
}

impl Shared {
    fn add(&self, message: &Message, now_ms: u64) {
        let Ok(mut entry) = serde_json::from_slice::<CatalogueEntry>(&message.body) else {
            return tracing::warn!("ignored an unreadable catalogue entry");
        };
        // The worker's clock may be wrong; this time only informs.
        entry.announced_at = entry.announced_at.min(at_unix_ms(now_ms));
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let (names, is_full) = ([&entry.job, &entry.queue], entries.len() >= MOST_ENTRIES);
        let key = (entry.job.clone(), entry.queue.clone());
        if names.iter().any(|name| name.len() > LONGEST_NAME) || (is_full && !entries.contains_key(&key)) {
            return tracing::warn!(
                entries = entries.len(),
                "ignored a catalogue entry: its name is too long, or there are too many"
            );
        }
        let number = *self.changes.borrow();
        entries.insert(key, (number, Arc::new(entry)));
        drop(entries);
        self.changes.send_modify(|changes| *changes += 1);
    }
}

/// Announces a worker's jobs, except those that the catalogue has in the same form. Retries until the broker has them
/// all.
pub(crate) async fn announce(broker: Broker, entries: Vec<CatalogueEntry>) {
    let catalogue = Catalogue::follow(&broker);
    // A user without read permission most likely has no write permission either. A refused publish closes its channel
    // with all its publishes.
    while !catalogue.ready().await {
        sleep(LONGEST_PAUSE).await;
    }
    let known = catalogue.entries();
    drop(catalogue);
    for entry in entries.into_iter().filter(|entry| !known.iter().any(|known| known.is_same(entry))) {
        let body = serde_json::to_vec(&entry).unwrap_or_default();
        let message = Message::new(ENTRY, &JobId::mint(), body, unix_ms(entry.announced_at));
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let error = match broker.send(&Target::Stream(Stream::Catalogue), Box::new(message.clone()), false).await {
                Ok(()) => break,
                Err(SendError::Closed) => return,
                Err(error) => error,
            };
            broker.log_throttle().log(format!("catalogue: {error:?}"), || {
                tracing::warn!(job = entry.job, %error, "cannot announce the job to the catalogue, retrying");
            });
            backoff.sleep().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn announce(shared: &Shared, entry: &serde_json::Value) {
        let body = serde_json::to_vec(entry).unwrap();
        shared.add(&Message::new(ENTRY, &JobId::mint(), body, NOW), NOW);
    }

    fn entry(queue: &str, announced_at: u64) -> serde_json::Value {
        let job = "email.send";
        serde_json::json!({"job": job, "queue": queue, "timeout_ms": 1, "max_attempts": 1, "announced_at": announced_at})
    }

    fn catalogue() -> Catalogue {
        Catalogue { shared: Arc::default(), _reader: Arc::new(AbortOnDropHandle::new(tokio::spawn(async {}))) }
    }

    #[tokio::test]
    async fn the_last_entry_in_the_order_of_the_stream_wins_whatever_its_time() {
        let catalogue = catalogue();
        for (queue, announced, kept) in [("evil", u64::MAX, NOW), ("email", NOW - 5, NOW - 5), ("older", 0, 0)] {
            announce(&catalogue.shared, &entry(queue, announced));
            let found = catalogue.find("email.send").unwrap();
            assert_eq!((found.queue.as_str(), found.announced_at), (queue, at_unix_ms(kept)));
        }
    }

    #[tokio::test]
    async fn entries_are_bounded_in_number_and_their_names_in_length() {
        let catalogue = catalogue();
        announce(&catalogue.shared, &entry(&"q".repeat(100_000), 0));
        assert!(catalogue.entries().is_empty());
        for n in 0..=MOST_ENTRIES {
            announce(&catalogue.shared, &entry(&format!("queue-{n}"), 0));
        }
        assert_eq!(catalogue.entries().len(), MOST_ENTRIES);
        announce(&catalogue.shared, &entry("queue-7", 7));
        assert_eq!(catalogue.find("email.send").unwrap().announced_at, at_unix_ms(7), "a known entry is still updated");
    }
}
