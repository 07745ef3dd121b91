//! A concurrency limit shared by all workers: slots are leased from the store and released.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use crate::limits::keyed::{KeyedPermit, KeyedSemaphore};
use crate::limits::shared::{LeaseRequest, LimitStore, Reach, ask};

/// Time without a renewal after which a worker loses its slots.
const LEASE: Duration = Duration::from_secs(10);
/// Shortest time between two requests of a worker, apart from renewals.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A concurrency limit shared by all workers.
pub(crate) struct SharedConcurrency {
    name: String,
    most: u32,
    /// The most slots that this worker can use.
    usable: u32,
    store: Arc<dyn LimitStore>,
    holder: String,
    slots: Arc<KeyedSemaphore>,
    lease: Mutex<Lease>,
    asking: tokio::sync::Mutex<Asking>,
    renewed: AtomicBool,
}

#[derive(Default)]
struct Asking {
    at: Option<Instant>,
    reach: Reach,
}

#[derive(Default)]
struct Lease {
    slots: u32,
    until: Option<Instant>,
    /// Jobs that found no slot since the last request to the store, and the largest number that ran at once.
    denied: u32,
    peak: u32,
}

impl SharedConcurrency {
    pub(crate) fn new(name: String, most: u32, usable: u32, store: Arc<dyn LimitStore>) -> Arc<Self> {
        Arc::new(Self {
            name,
            most,
            usable: usable.min(most),
            store,
            holder: Uuid::now_v7().to_string(),
            slots: Arc::default(),
            lease: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            renewed: AtomicBool::new(false),
        })
    }

    /// Takes a slot, or returns the time to wait.
    pub(crate) async fn enter(self: &Arc<Self>, again: bool, in_place: Duration) -> Result<KeyedPermit, Duration> {
        if let Ok(slot) = self.take(again) {
            return Ok(slot);
        }
        self.lease().denied += 1;
        if self.leased() < self.usable {
            self.ask().await;
        }
        let slot = self.slots.enter(0, || self.leased(), again, in_place).await?;
        self.note();
        Ok(slot)
    }

    fn take(&self, again: bool) -> Result<KeyedPermit, Duration> {
        let slot = self.slots.take(0, self.leased(), again)?;
        self.note();
        Ok(slot)
    }

    fn note(&self) {
        let taken = self.slots.taken(0);
        let mut lease = self.lease();
        lease.peak = lease.peak.max(taken);
    }

    /// Returns the number of slots that this worker has now. A lease that was not renewed has expired.
    fn leased(&self) -> u32 {
        let lease = self.lease();
        lease.until.filter(|until| *until > Instant::now()).map_or(0, |_| lease.slots)
    }

    /// Asks the store, unless it was asked just now.
    async fn ask(self: &Arc<Self>) {
        let mut asking = self.asking.lock().await;
        if asking.at.is_some_and(|at| at.elapsed() < ASK_EVERY) || asking.reach.is_unreachable() {
            return;
        }
        asking.at = Some(Instant::now());
        let answer = self.renew().await;
        if asking.reach.record(&self.name, answer).is_some() && !self.renewed.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep(Arc::downgrade(self)));
        }
    }

    async fn renew(&self) -> Result<(), String> {
        let used = self.slots.taken(0);
        let wanted = {
            let mut lease = self.lease();
            let wanted = (lease.peak * 2).max(used).saturating_add(lease.denied).min(self.usable);
            (lease.denied, lease.peak) = (0, used);
            wanted
        };
        let request = LeaseRequest { holder: &self.holder, used, wanted, most: self.most, lease: LEASE };
        let sent = Instant::now();
        let slots = ask(self.store.lease(&self.name, request)).await?;
        let mut lease = self.lease();
        (lease.slots, lease.until) = (slots, Some(sent + LEASE));
        drop(lease);
        self.slots.wake();
        Ok(())
    }

    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews the lease while its worker runs, then releases it.
async fn keep(shared: Weak<SharedConcurrency>) {
    let Some(held) = shared
        .upgrade()
        .map(|shared| (Arc::clone(&shared.store), shared.name.clone(), shared.holder.clone(), shared.most))
    else {
        return;
    };
    loop {
        sleep(LEASE / 5).await;
        let Some(shared) = shared.upgrade() else { break };
        let mut asking = shared.asking.lock().await;
        let answer = shared.renew().await;
        asking.reach.record(&shared.name, answer);
    }
    let (store, name, holder, most) = held;
    let request = LeaseRequest { holder: &holder, used: 0, wanted: 0, most, lease: LEASE };
    if let Err(reason) = ask(store.lease(&name, request)).await {
        tracing::debug!(
            limit = name,
            error = reason,
            "cannot release the slots: they stay leased until their lease expires"
        );
    }
}

impl fmt::Debug for SharedConcurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedConcurrency").field("name", &self.name).field("most", &self.most).finish_non_exhaustive()
    }
}
