//! Writes into the store what this server tells of jobs itself, such as that they are queued: all that waits at once, so
//! that many requests share one commit.
//!
//! It stands behind a confirmed publish: what it was given is not refused any more, but tried until the store has it.
//! So there is room for so much only, to be had before the publish.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use leveret::status_update::StatusUpdate;
use leveret_store::{StatusChange, Store};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::waiters::Waiters;

/// Events that may wait for the store: some 10 MB.
const ROOM: usize = 20_000;
const AT_ONCE: usize = 64;
/// How long an answer waits for the store once its job is published.
const PATIENCE: Duration = Duration::from_secs(2);
/// A store that has not written for so long is away.
const SILENT_AFTER: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A cheap handle on the task that writes.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    entries: mpsc::UnboundedSender<Entry>,
    room: Arc<Semaphore>,
    keeper: Keeper,
}

/// Room for events that are yet to happen.
#[derive(Debug)]
pub(crate) struct Room {
    _permits: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Entry {
    events: Vec<StatusUpdate>,
    /// Dropped when they are written.
    _written: oneshot::Sender<()>,
    _room: Option<Room>,
}

/// Records events until the store has them, and wakes who waits for their jobs.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    store: Store,
    waiters: Waiters,
    away: Arc<AtomicBool>,
}

impl Recorder {
    pub(crate) fn start(store: Store, waiters: Waiters) -> Self {
        let (entries, mut queue) = mpsc::unbounded_channel::<Entry>();
        let keeper = Keeper { store, waiters, away: Arc::default() };
        let kept = keeper.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while queue.recv_many(&mut taken, AT_ONCE).await > 0 {
                let events: Vec<_> = taken.iter_mut().flat_map(|entry| std::mem::take(&mut entry.events)).collect();
                kept.keep(&events).await;
                taken.clear();
            }
        });
        Self { entries, room: Arc::new(Semaphore::new(ROOM)), keeper }
    }

    /// What both this and the tracker write with.
    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Room for so many events; none while the store is away, or slower than what comes.
    pub(crate) fn room(&self, events: usize) -> Option<Room> {
        if self.keeper.away.load(Ordering::Acquire) {
            return None;
        }
        let permits = u32::try_from(events).ok()?;
        Arc::clone(&self.room).try_acquire_many_owned(permits).ok().map(|permits| Room { _permits: permits })
    }

    /// Hands events over, and waits until they are written, but not for long.
    pub(crate) async fn record(&self, events: Vec<StatusUpdate>, room: Room) {
        let (sender, written) = oneshot::channel();
        let sent = self.entries.send(Entry { events, _written: sender, _room: Some(room) });
        if sent.is_err() || timeout(PATIENCE, written).await.is_err() {
            tracing::warn!("the store is slow: jobs are accepted whose status will be known later");
        }
    }

    /// Waits until all is written that was handed over before.
    pub(crate) async fn flush(&self, within: Duration) {
        let (sender, written) = oneshot::channel();
        let sent = self.entries.send(Entry { events: Vec::new(), _written: sender, _room: None });
        if sent.is_err() || timeout(within, written).await.is_err() {
            tracing::warn!("stopping before the store has all that was told");
        }
    }
}

impl Keeper {
    /// Tries for ever, whatever is wrong with the store. Only an event that it refuses for itself is logged and left out.
    pub(crate) async fn keep(&self, events: &[StatusUpdate]) {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.try_keep(events).await {
                Ok(moved) => return self.kept(&moved),
                Err(error) => error,
            };
            // Whatever is wrong with a batch, one event of it may be to blame. A single one is left out if it is refused
            // for itself; while there is more wrong, such as a table that is missing, it waits.
            if error.is_refusal() || (events.len() > 1 && !error.is_unavailable()) {
                return self.keep_each(events, &error).await;
            }
            self.gone(&error);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A store that does not answer is as good as away, long before it says so itself.
    async fn try_keep(&self, events: &[StatusUpdate]) -> leveret_store::Result<Vec<StatusChange>> {
        let mut record = std::pin::pin!(self.store.record(events));
        if let Ok(recorded) = timeout(SILENT_AFTER, &mut record).await {
            return recorded;
        }
        self.gone(&leveret_store::Error::Silent);
        record.await
    }

    fn gone(&self, error: &leveret_store::Error) {
        if !self.away.swap(true, Ordering::AcqRel) {
            tracing::warn!(error = leveret_store::chain(&error), "the store takes nothing, trying again");
        }
    }

    async fn keep_each(&self, events: &[StatusUpdate], error: &leveret_store::Error) {
        let [event] = events else {
            for half in events.chunks(events.len().div_ceil(2).max(1)) {
                Box::pin(self.keep(half)).await;
            }
            return;
        };
        tracing::error!(
            error = leveret_store::chain(&error),
            job_id = event.id,
            step = event.step.name(),
            "a step that the store cannot hold is left out"
        );
    }

    fn kept(&self, moved: &[StatusChange]) {
        if self.away.swap(false, Ordering::AcqRel) {
            tracing::info!("the store takes what it is given again");
        }
        self.waiters.moved(moved);
    }
}

#[cfg(test)]
mod tests {
    use leveret::status_update::Step;
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
            at: 1_800_000_000_000,
            worker: None,
            step: Step::Started,
        }
    }

    #[tokio::test]
    async fn an_event_that_the_store_cannot_hold_does_not_hold_up_the_others() {
        let store = Store::open(&shared_postgres().await.database().await).await.unwrap();
        let recorder = Recorder::start(store.clone(), Waiters::default());
        // Too long for an index of PostgreSQL, which does not make it shorter.
        let long: String = (0..2_000).map(|_| uuid::Uuid::now_v7().simple().to_string()).collect();
        recorder.keeper().keep(&[started("a"), started(&long), started("b")]).await;
        let kept = store.jobs_by_ids(&["a", "b", &long]).await.unwrap();
        assert_eq!(kept.len(), 2);
        assert!(recorder.room(1).is_some());
    }

    #[tokio::test]
    async fn while_the_store_says_nothing_no_room_is_given_and_nothing_is_lost() {
        let proxy = Proxy::start(&shared_postgres().await.database().await).await;
        let store = Store::open(proxy.url()).await.unwrap();
        let recorder = Recorder::start(store.clone(), Waiters::default());
        proxy.freeze();
        let room = recorder.room(1).unwrap();
        recorder.record(vec![started("a")], room).await;
        eventually("no room", Duration::from_secs(10), async || recorder.room(1).is_none()).await;
        proxy.thaw();
        eventually("room again", Duration::from_secs(30), async || recorder.room(1).is_some()).await;
        assert!(store.job("a").await.unwrap().is_some());
    }
}
