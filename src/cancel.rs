//! Jobs that somebody does not want any more: read from the stream `leveret.v1.cancelled`, so that every worker knows,
//! also one that starts later, and also after all of them and the broker were restarted.
//!
//! Only tracked jobs can be cancelled, so that no other job is looked up.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foldhash::quality::RandomState;
use tokio::{
    sync::{SetOnce, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    broker::Broker,
    stream::{Reading, follow},
    topology::Stream,
};

/// How long a tracked job waits for the stream to be read. After that it runs, at the risk that it is not wanted.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What a process knows of cancelled jobs: 16 bytes for each that was cancelled in ten years.
#[derive(Default)]
pub(crate) struct Cancelled {
    state: Mutex<State>,
    reading: watch::Sender<Reading>,
}

#[derive(Default)]
struct State {
    /// Ids by their hash of 128 bits; that two meet is less likely than that a machine fails.
    ids: HashSet<u128>,
    hashers: (RandomState, RandomState),
    running: HashMap<String, Running>,
    /// Workers of this process that need the stream.
    readers: usize,
    reader: Option<AbortOnDropHandle<()>>,
}

/// Attempts at one job that run in this process.
struct Running {
    unwanted: Arc<SetOnce<()>>,
    attempts: usize,
}

impl State {
    fn hash(&self, id: &str) -> u128 {
        let (high, low) = (self.hashers.0.hash_one(id), self.hashers.1.hash_one(id));
        u128::from(high) << 64 | u128::from(low)
    }
}

/// Keeps the stream being read until it is dropped.
pub(crate) struct Needed {
    broker: Broker,
}

/// An attempt that runs; it is forgotten when this is dropped.
pub(crate) struct Watched {
    broker: Broker,
    id: String,
    unwanted: Arc<SetOnce<()>>,
}

impl Cancelled {
    /// Reads the stream as long as somebody needs it.
    pub(crate) fn read(broker: &Broker) -> Needed {
        let mut state = broker.cancelled().lock();
        state.readers += 1;
        if state.reader.is_none() {
            let handle = broker.downgrade();
            state.reader = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                // Whoever needs the stream keeps the handle alive.
                if let Some(broker) = handle() {
                    let cancelled = broker.cancelled();
                    let seen = |message: &crate::message::Message| cancelled.note(message.id().unwrap_or_default());
                    follow(&broker, Stream::Cancelled, &cancelled.reading, seen).await;
                }
            })));
        }
        drop(state);
        Needed { broker: broker.clone() }
    }

    fn note(&self, id: &str) {
        let mut state = self.lock();
        let hash = state.hash(id);
        state.ids.insert(hash);
        if let Some(running) = state.running.get(id) {
            // Told twice is told.
            drop(running.unwanted.set(()));
        }
    }

    /// Whether a tracked job is not to run. Waits until the stream has been read, if it can be.
    pub(crate) async fn contains(&self, id: &str) -> bool {
        let mut reading = self.reading.subscribe();
        let read = reading.wait_for(|reading| *reading != Reading::Behind);
        if timeout(READ_WITHIN, read).await.is_err() {
            tracing::warn!("the stream of cancelled jobs cannot be read: jobs run whether or not they are cancelled");
            self.reading.send_replace(Reading::Unreadable);
        }
        let state = self.lock();
        state.ids.contains(&state.hash(id))
    }

    /// Watches a job that runs, and may be unwanted already.
    pub(crate) fn watch(broker: &Broker, id: &str) -> Watched {
        let mut state = broker.cancelled().lock();
        let is_unwanted = state.ids.contains(&state.hash(id));
        let running =
            state.running.entry(id.to_owned()).or_insert_with(|| Running { unwanted: Arc::default(), attempts: 0 });
        running.attempts += 1;
        if is_unwanted {
            drop(running.unwanted.set(()));
        }
        let unwanted = Arc::clone(&running.unwanted);
        Watched { broker: broker.clone(), id: id.to_owned(), unwanted }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Set once the job is not wanted any more.
    pub(crate) fn unwanted(&self) -> &SetOnce<()> {
        &self.unwanted
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = self.broker.cancelled().lock();
        if let Some(running) = state.running.get_mut(&self.id) {
            running.attempts -= 1;
            if running.attempts == 0 {
                state.running.remove(&self.id);
            }
        }
    }
}

impl Drop for Needed {
    fn drop(&mut self) {
        let mut state = self.broker.cancelled().lock();
        state.readers -= 1;
        if state.readers == 0 {
            state.reader = None;
            drop(state);
            // The next reader begins anew.
            self.broker.cancelled().reading.send_replace(Reading::Behind);
        }
    }
}
