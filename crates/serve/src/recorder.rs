//! Writes this server's own status updates into the store, such as `queued`. All waiting updates share one commit.
//!
//! Recording follows a confirmed publish, so an update cannot be refused: it is retried until the store has it. A request
//! therefore reserves capacity before it publishes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use leveret::{backoff::Backoff, status_update::StatusUpdate};
use leveret_store::{StatusChange, Store};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::waiters::Waiters;

/// The greatest number of updates that wait for the store: about 10 MB.
const CAPACITY: usize = 20_000;
const AT_ONCE: usize = 64;
/// Longest wait of a response for the store after its job is published.
const PATIENCE: Duration = Duration::from_secs(2);
/// Silence after which the store counts as unreachable.
const SILENT_AFTER: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A handle on the task that writes. Clones are cheap.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    requests: mpsc::UnboundedSender<RecordRequest>,
    capacity: Arc<Semaphore>,
    writer: StatusWriter,
}

/// Capacity for status updates of jobs that are not published yet.
#[derive(Debug)]
pub(crate) struct Reservation {
    _permits: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct RecordRequest {
    updates: Vec<StatusUpdate>,
    /// Dropped when the updates are written.
    _written: oneshot::Sender<()>,
    _reservation: Option<Reservation>,
}

/// Writes status updates until the store has them, and wakes the clients that wait for their jobs.
#[derive(Clone, Debug)]
pub(crate) struct StatusWriter {
    store: Store,
    waiters: Waiters,
    unreachable: Arc<AtomicBool>,
}

impl Recorder {
    pub(crate) fn start(store: Store, waiters: Waiters) -> Self {
        let (requests, mut queue) = mpsc::unbounded_channel::<RecordRequest>();
        let writer = StatusWriter { store, waiters, unreachable: Arc::default() };
        let own = writer.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while queue.recv_many(&mut taken, AT_ONCE).await > 0 {
                let updates: Vec<_> =
                    taken.iter_mut().flat_map(|request| std::mem::take(&mut request.updates)).collect();
                own.write(&updates).await;
                taken.clear();
            }
        });
        Self { requests, capacity: Arc::new(Semaphore::new(CAPACITY)), writer }
    }

    /// The writer, which the tracker uses too.
    pub(crate) fn writer(&self) -> &StatusWriter {
        &self.writer
    }

    /// Reserves capacity for this number of updates; `None` while the store is unreachable or too slow.
    pub(crate) fn reserve(&self, updates: usize) -> Option<Reservation> {
        if self.writer.unreachable.load(Ordering::Acquire) {
            return None;
        }
        let permits = u32::try_from(updates).ok()?;
        Arc::clone(&self.capacity).try_acquire_many_owned(permits).ok().map(|permits| Reservation { _permits: permits })
    }

    /// Queues updates, and waits a short time until they are written.
    pub(crate) async fn record(&self, updates: Vec<StatusUpdate>, reservation: Reservation) {
        let (sender, written) = oneshot::channel();
        let sent = self.requests.send(RecordRequest { updates, _written: sender, _reservation: Some(reservation) });
        if sent.is_err() || timeout(PATIENCE, written).await.is_err() {
            tracing::warn!("the store is slow: accepted jobs have no status yet");
        }
    }

    /// Waits until all queued updates are written.
    pub(crate) async fn flush(&self, within: Duration) {
        let (sender, written) = oneshot::channel();
        let sent = self.requests.send(RecordRequest { updates: Vec::new(), _written: sender, _reservation: None });
        if sent.is_err() || timeout(within, written).await.is_err() {
            tracing::warn!("stopping before the store has all status updates");
        }
    }
}

impl StatusWriter {
    /// Tries until the store has the updates. Only an update that the store refuses by itself is logged and dropped.
    pub(crate) async fn write(&self, updates: &[StatusUpdate]) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let error = match self.try_write(updates).await {
                Ok(moved) => return self.written(&moved),
                Err(error) => error,
            };
            // One update may be the cause of any failure of a batch. A single update is dropped only if the store refuses
            // it; for other faults, such as a missing table, it waits.
            if error.is_refusal() || (updates.len() > 1 && !error.is_unavailable()) {
                return self.write_each(updates, &error).await;
            }
            self.failed(&error);
            backoff.sleep().await;
        }
    }

    /// A store that does not answer counts as unreachable, long before its connection fails.
    async fn try_write(&self, updates: &[StatusUpdate]) -> leveret_store::Result<Vec<StatusChange>> {
        let mut record = std::pin::pin!(self.store.record(updates));
        if let Ok(recorded) = timeout(SILENT_AFTER, &mut record).await {
            return recorded;
        }
        self.failed(&leveret_store::Error::Silent);
        record.await
    }

    fn failed(&self, error: &leveret_store::Error) {
        if !self.unreachable.swap(true, Ordering::AcqRel) {
            tracing::warn!(error = leveret::text::error_chain(&error), "the store accepts no writes, retrying");
        }
    }

    async fn write_each(&self, updates: &[StatusUpdate], error: &leveret_store::Error) {
        let [update] = updates else {
            for half in updates.chunks(updates.len().div_ceil(2).max(1)) {
                Box::pin(self.write(half)).await;
            }
            return;
        };
        tracing::error!(
            error = leveret::text::error_chain(&error),
            job_id = update.id.as_str(),
            step = update.transition.name(),
            "dropped a status update that the store refuses"
        );
    }

    fn written(&self, moved: &[StatusChange]) {
        if self.unreachable.swap(false, Ordering::AcqRel) {
            tracing::info!("the store accepts writes again");
        }
        self.waiters.moved(moved);
    }
}

#[cfg(test)]
mod tests {
    use leveret::status_update::Transition;
    use leveret_harness::{Proxy, eventually, shared_postgres};

    use super::*;

    fn started(id: &str) -> StatusUpdate {
        StatusUpdate {
            id: id.into(),
            job: "demo.work".into(),
            queue: "demo".into(),
            origin: None,
            label: None,
            priority: None,
            attempt: 1,
            hop: 0,
            enqueued_at: None,
            at: leveret::time::at_unix_ms(1_800_000_000_000),
            worker: None,
            transition: Transition::Started,
        }
    }

    #[tokio::test]
    async fn a_status_update_that_the_store_refuses_does_not_delay_the_others() {
        let store = Store::open(&shared_postgres().await.database().await).await.unwrap();
        let recorder = Recorder::start(store.clone(), Waiters::default());
        // Too long for an index of PostgreSQL, which does not make it shorter.
        let long: String = (0..2_000).map(|_| uuid::Uuid::now_v7().simple().to_string()).collect();
        recorder.writer().write(&[started("a"), started(&long), started("b")]).await;
        let kept = store.jobs_by_ids(&["a", "b", &long]).await.unwrap();
        assert_eq!(kept.len(), 2);
        assert!(recorder.reserve(1).is_some());
    }

    #[tokio::test]
    async fn while_the_store_does_not_answer_nothing_is_reserved_and_nothing_is_lost() {
        let proxy = Proxy::start(&shared_postgres().await.database().await).await;
        let store = Store::open(proxy.url()).await.unwrap();
        let recorder = Recorder::start(store.clone(), Waiters::default());
        proxy.freeze();
        let reservation = recorder.reserve(1).unwrap();
        recorder.record(vec![started("a")], reservation).await;
        eventually("no reservation", Duration::from_secs(10), async || recorder.reserve(1).is_none()).await;
        proxy.thaw();
        eventually("reservation again", Duration::from_secs(30), async || recorder.reserve(1).is_some()).await;
        assert!(store.job("a").await.unwrap().is_some());
    }
}
