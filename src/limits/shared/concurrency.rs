//! A concurrency limit of all workers: places are leased from the store, and given back.

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

/// A worker that says nothing for so long has lost its places.
const LEASE: Duration = Duration::from_secs(10);
/// Apart from renewals, a worker asks for places no more often.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A concurrency limit of all workers.
pub(crate) struct SharedPlaces {
    name: String,
    most: u32,
    /// As many as this worker could ever use.
    usable: u32,
    permits: Arc<dyn LimitStore>,
    holder: String,
    places: Arc<KeyedSemaphore>,
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
    places: u32,
    until: Option<Instant>,
    /// Jobs that found no place since the store was asked last, and the most that ran at once.
    denied: u32,
    peak: u32,
}

impl SharedPlaces {
    pub(crate) fn new(name: String, most: u32, usable: u32, permits: Arc<dyn LimitStore>) -> Arc<Self> {
        Arc::new(Self {
            name,
            most,
            usable: usable.min(most),
            permits,
            holder: Uuid::now_v7().to_string(),
            places: Arc::default(),
            lease: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            renewed: AtomicBool::new(false),
        })
    }

    /// A place, or the time to wait.
    pub(crate) async fn enter(self: &Arc<Self>, again: bool, in_place: Duration) -> Result<KeyedPermit, Duration> {
        if let Ok(place) = self.take(again) {
            return Ok(place);
        }
        self.lease().denied += 1;
        if self.leased() < self.usable {
            self.ask().await;
        }
        let place = self.places.enter(0, || self.leased(), again, in_place).await?;
        self.note();
        Ok(place)
    }

    fn take(&self, again: bool) -> Result<KeyedPermit, Duration> {
        let place = self.places.take(0, self.leased(), again)?;
        self.note();
        Ok(place)
    }

    fn note(&self) {
        let taken = self.places.taken(0);
        let mut lease = self.lease();
        lease.peak = lease.peak.max(taken);
    }

    /// How many places this worker has now. A lease that could not be renewed is over.
    fn leased(&self) -> u32 {
        let lease = self.lease();
        lease.until.filter(|until| *until > Instant::now()).map_or(0, |_| lease.places)
    }

    /// Asks the store, unless that was done just now.
    async fn ask(self: &Arc<Self>) {
        let mut asking = self.asking.lock().await;
        if asking.at.is_some_and(|at| at.elapsed() < ASK_EVERY) || asking.reach.is_away() {
            return;
        }
        asking.at = Some(Instant::now());
        let answer = self.renew().await;
        if asking.reach.heard(&self.name, answer).is_some() && !self.renewed.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep(Arc::downgrade(self)));
        }
    }

    async fn renew(&self) -> Result<(), String> {
        let used = self.places.taken(0);
        let wanted = {
            let mut lease = self.lease();
            let wanted = (lease.peak * 2).max(used).saturating_add(lease.denied).min(self.usable);
            (lease.denied, lease.peak) = (0, used);
            wanted
        };
        let request = LeaseRequest { holder: &self.holder, used, wanted, most: self.most, lease: LEASE };
        let sent = Instant::now();
        let places = ask(self.permits.places(&self.name, request)).await?;
        let mut lease = self.lease();
        (lease.places, lease.until) = (places, Some(sent + LEASE));
        drop(lease);
        self.places.wake();
        Ok(())
    }

    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews the lease as long as its worker runs, then gives it back.
async fn keep(shared: Weak<SharedPlaces>) {
    let Some(given_back) = shared
        .upgrade()
        .map(|shared| (Arc::clone(&shared.permits), shared.name.clone(), shared.holder.clone(), shared.most))
    else {
        return;
    };
    loop {
        sleep(LEASE / 5).await;
        let Some(shared) = shared.upgrade() else { break };
        let mut asking = shared.asking.lock().await;
        let answer = shared.renew().await;
        asking.reach.heard(&shared.name, answer);
    }
    let (permits, name, holder, most) = given_back;
    let request = LeaseRequest { holder: &holder, used: 0, wanted: 0, most, lease: LEASE };
    if let Err(reason) = ask(permits.places(&name, request)).await {
        tracing::debug!(limit = name, error = reason, "places were not given back: their lease will be over");
    }
}

impl fmt::Debug for SharedPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPlaces").field("name", &self.name).field("most", &self.most).finish_non_exhaustive()
    }
}
