//! Cancelled jobs, read from the stream `leveret.v1.cancelled`. Every worker knows them, also one that starts later,
//! and also after a restart of all workers and the broker.
//!
//! Only tracked jobs can be cancelled, so no other job is looked up. A cancellation applies to one life of a job: a
//! later job with the same id, or a replay of the job, runs.

use std::{
    collections::HashMap,
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
    message::Message,
    topology::Stream,
    tracking::stream::{Reading, follow},
    transport::Transport,
};

/// Longest wait of a tracked job until the stream is read. After that the job runs, even if it may be cancelled.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Cancelled jobs known to a process: 24 bytes for each job that was cancelled in ten years.
#[derive(Clone, Default)]
pub(crate) struct Cancellations {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    reading: watch::Sender<Reading>,
}

#[derive(Default)]
struct State {
    /// Time of the last cancellation of each id, in milliseconds since the epoch. Ids are stored as hashes of 128 bits;
    /// a collision is less likely than a hardware failure.
    times: HashMap<u128, u64>,
    hashers: (RandomState, RandomState),
    running: HashMap<String, Vec<Running>>,
    /// Number of workers in this process that need the stream.
    readers: usize,
    reader: Option<AbortOnDropHandle<()>>,
}

/// An attempt running in this process.
struct Running {
    /// Start of the current life of its job.
    since: u64,
    cancelled: Arc<SetOnce<()>>,
}

impl State {
    fn hash(&self, id: &str) -> u128 {
        let (high, low) = (self.hashers.0.hash_one(id), self.hashers.1.hash_one(id));
        u128::from(high) << 64 | u128::from(low)
    }

    fn contains(&self, id: &str, since: u64) -> bool {
        self.times.get(&self.hash(id)).is_some_and(|at| *at > since)
    }
}

/// Guard that keeps the stream being read until it is dropped.
pub(crate) struct ReaderGuard {
    cancellations: Cancellations,
}

/// Watch of a running attempt, which ends when this is dropped.
pub(crate) struct CancelWatch {
    cancellations: Cancellations,
    ids: Vec<String>,
    cancelled: Arc<SetOnce<()>>,
}

impl Cancellations {
    /// Reads the stream until the returned guard is dropped.
    pub(crate) fn read(&self, transport: &Transport) -> ReaderGuard {
        let mut state = self.lock();
        state.readers += 1;
        // The reader is finished when the runtime that it ran on has ended.
        if state.reader.as_ref().is_none_or(|reader| reader.is_finished()) {
            let (cancellations, transport) = (self.clone(), transport.clone());
            // The drop of the last guard ends this task.
            state.reader = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                let on_message = |message: &Message| cancellations.see(message);
                follow(&transport, Stream::Cancelled, &cancellations.shared.reading, on_message).await;
            })));
        }
        drop(state);
        ReaderGuard { cancellations: self.clone() }
    }

    fn see(&self, message: &Message) {
        // A cancellation without a time applies indefinitely.
        self.note(message.id().unwrap_or_default(), message.enqueued_at().unwrap_or(u64::MAX));
    }

    fn note(&self, id: &str, at: u64) {
        let mut state = self.lock();
        let hash = state.hash(id);
        let latest = state.times.entry(hash).or_default();
        *latest = at.max(*latest);
        for running in state.running.get(id).into_iter().flatten().filter(|running| at > running.since) {
            // A second cancellation has no further effect.
            drop(running.cancelled.set(()));
        }
    }

    /// Returns whether a tracked job, whose life began at `since`, is cancelled. Waits until the stream has been read,
    /// if it is readable.
    pub(crate) async fn contains(&self, id: &str, since: u64) -> bool {
        let mut reading = self.shared.reading.subscribe();
        let read = reading.wait_for(|reading| *reading != Reading::Behind);
        if timeout(READ_WITHIN, read).await.is_err() {
            tracing::warn!("cannot read the stream of cancelled jobs: cancelled jobs may run");
            self.shared.reading.send_replace(Reading::Unreadable);
        }
        self.lock().contains(id, since)
    }

    /// Watches a running job for cancellation under any of these ids; it may already be cancelled.
    pub(crate) fn watch(&self, ids: impl Iterator<Item = String>, since: u64) -> CancelWatch {
        let (mut state, ids) = (self.lock(), ids.collect::<Vec<_>>());
        let is_cancelled = ids.iter().any(|id| state.contains(id, since));
        let cancelled = Arc::new(if is_cancelled { SetOnce::new_with(Some(())) } else { SetOnce::new() });
        for id in &ids {
            let running = Running { since, cancelled: Arc::clone(&cancelled) };
            state.running.entry(id.clone()).or_default().push(running);
        }
        CancelWatch { cancellations: self.clone(), ids, cancelled }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CancelWatch {
    /// Returns the signal that is set once the job is cancelled.
    pub(crate) fn cancelled(&self) -> &SetOnce<()> {
        &self.cancelled
    }
}

impl Drop for CancelWatch {
    fn drop(&mut self) {
        let mut state = self.cancellations.lock();
        for id in &self.ids {
            let Some(running) = state.running.get_mut(id) else { continue };
            running.retain(|running| !Arc::ptr_eq(&running.cancelled, &self.cancelled));
            if running.is_empty() {
                state.running.remove(id);
            }
        }
    }
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        let mut state = self.cancellations.lock();
        state.readers -= 1;
        if state.readers == 0 {
            state.reader = None;
            drop(state);
            // The next reader starts from the beginning.
            self.cancellations.shared.reading.send_replace(Reading::Behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_applies_to_the_life_in_which_it_was_requested() {
        let cancelled = Cancellations::default();
        cancelled.note("a", 1_000);
        cancelled.note("a", 500);
        let contains = |id, since| cancelled.lock().contains(id, since);
        assert!(contains("a", 999) && !contains("a", 1_000) && !contains("b", 0));
        cancelled.note("a", 2_000);
        assert!(contains("a", 1_000));
    }

    #[tokio::test]
    async fn an_attempt_is_notified_of_a_cancellation_of_its_own_life_only() {
        let cancellations = Cancellations::default();
        let watch = |since| cancellations.watch(["a".to_owned(), "w:*".to_owned()].into_iter(), since);
        let (before, after) = (watch(999), watch(1_000));
        cancellations.note("a", 1_000);
        assert!(before.cancelled().initialized() && !after.cancelled().initialized());
        drop(before);
        cancellations.note("a", 1_001);
        assert!(after.cancelled().initialized());
        let by_workflow = watch(2_000);
        cancellations.note("w:*", 2_001);
        assert!(by_workflow.cancelled().initialized());
        drop((after, by_workflow));
        assert!(cancellations.lock().running.is_empty());
    }
}
