//! Limits that all workers share, wherever they run: slots and places are leased from a store, many at a time.
//!
//! A worker asks the store ten times a second, not for each job. What it has leased and does not use is lost to the
//! others for a while: slots of a rate for as long as the batch is ahead of time (a tenth of a second, and up to ten while
//! jobs queue up), places until they are given back or their lease is over.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::{Duration, Instant, sleep, timeout};
use uuid::Uuid;

use super::{
    Rate,
    places::{Place, Places},
};

/// How much of a rate is leased at once, in time.
const BATCH: Duration = Duration::from_millis(100);
/// The same while jobs queue up for slots that are far ahead.
const LARGEST_BATCH: Duration = Duration::from_secs(10);
const MOST_SLOTS: u32 = 100_000;
/// A worker that says nothing for so long has lost its places.
const LEASE: Duration = Duration::from_secs(10);
/// Apart from renewals, a worker asks for places no more often.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// A store that does not answer within this time is away.
const PATIENCE: Duration = Duration::from_secs(2);
/// A store that is away is asked again after this time; jobs that come before are told so at once.
const AWAY: Duration = Duration::from_secs(2);

/// What a [`Permits`] answers, in the end.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// A store of limits that several workers share; leveret-store has one for PostgreSQL and SQLite.
///
/// See [`Worker::permits`](crate::Worker::permits).
pub trait Permits: Send + Sync + 'static {
    /// Takes the next `slots` slots of a rate limit and returns the time of the first in nanoseconds from now, negative if
    /// it is over; each that follows is [`Rate::interval`] later. No slot is given twice, none lies further back than
    /// [`Rate::tolerance`].
    fn slots<'a>(&'a self, limit: &'a str, rate: Rate, slots: u32) -> Answer<'a, i64>;

    /// Sets how many places a worker has of a concurrency limit from now on, and returns it: as many as it wants if that
    /// is just to the others, never fewer than it uses.
    fn places<'a>(&'a self, limit: &'a str, wish: Wish<'a>) -> Answer<'a, u32>;
}

/// What a worker asks of [`Permits::places`].
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The worker, for as long as it runs.
    pub holder: &'a str,
    /// How many it uses now.
    pub used: u32,
    /// How many it could use.
    pub wanted: u32,
    /// How many there are for all.
    pub most: u32,
    /// For how long.
    pub lease: Duration,
}

/// Whether the store answers.
#[derive(Default)]
struct Reach {
    away_until: Option<Instant>,
}

impl Reach {
    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| until > Instant::now())
    }

    /// What the store said, if anything. Says in the log only what is news.
    fn heard<T>(&mut self, limit: &str, answer: Result<T, String>) -> Option<T> {
        match answer {
            Ok(answer) => {
                if self.away_until.take().is_some() {
                    tracing::info!(limit, "the store of limits is back");
                }
                Some(answer)
            }
            Err(reason) => {
                if self.away_until.replace(Instant::now() + AWAY).is_none() {
                    tracing::warn!(limit, error = reason, "the store of limits is away: jobs wait");
                }
                None
            }
        }
    }
}

/// A rate limit of all workers.
pub(crate) struct SharedRate {
    name: String,
    rate: Rate,
    permits: Arc<dyn Permits>,
    batch: tokio::sync::Mutex<Batch>,
}

/// Slots that were leased and not used yet.
struct Batch {
    next: Instant,
    left: u32,
    /// The size of the last one, and when it was leased.
    size: u32,
    at: Option<Instant>,
    reach: Reach,
}

impl SharedRate {
    pub(crate) fn new(name: String, rate: Rate, permits: Arc<dyn Permits>) -> Self {
        let batch = Batch { next: Instant::now(), left: 0, size: 0, at: None, reach: Reach::default() };
        Self { name, rate, permits, batch: tokio::sync::Mutex::new(batch) }
    }

    /// Takes the next slot, and says how long it is until then; none while the store is away.
    pub(crate) async fn reserve(&self) -> Option<Duration> {
        let mut batch = self.batch.lock().await;
        batch.skip_stale(self.rate, Instant::now());
        if batch.left == 0 {
            if batch.reach.is_away() {
                return None;
            }
            let size = batch.next_size(self.rate);
            let answer = ask(self.permits.slots(&self.name, self.rate, size)).await;
            let first = batch.reach.heard(&self.name, answer)?;
            let (now, off) = (Instant::now(), Duration::from_nanos(first.unsigned_abs()));
            batch.next = if first < 0 { now.checked_sub(off).unwrap_or(now) } else { now + off };
            (batch.left, batch.size, batch.at) = (size, size, Some(now));
        }
        let slot = batch.next;
        batch.next += self.rate.interval();
        batch.left -= 1;
        Some(slot.saturating_duration_since(Instant::now()))
    }
}

impl Batch {
    /// Slots that nobody used in time are not saved up.
    fn skip_stale(&mut self, rate: Rate, now: Instant) {
        let kept = rate.tolerance().max(BATCH);
        let late = now.saturating_duration_since(self.next).saturating_sub(kept);
        let over = u32::try_from(late.as_nanos() / rate.interval().as_nanos()).unwrap_or(u32::MAX).min(self.left);
        self.next += rate.interval() * over;
        self.left -= over;
    }

    fn next_size(&self, rate: Rate) -> u32 {
        let slots = |time: Duration| (time.as_nanos() / rate.interval().as_nanos()).clamp(1, MOST_SLOTS.into()) as u32;
        let was_used_up = self.at.is_some_and(|at| at.elapsed() < BATCH);
        let size = if was_used_up { self.size.saturating_mul(2) } else { self.size / 2 };
        size.clamp(slots(BATCH), slots(LARGEST_BATCH))
    }
}

/// A concurrency limit of all workers.
pub(crate) struct SharedPlaces {
    name: String,
    most: u32,
    /// As many as this worker could ever use.
    usable: u32,
    permits: Arc<dyn Permits>,
    holder: String,
    places: Arc<Places>,
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
    pub(crate) fn new(name: String, most: u32, usable: u32, permits: Arc<dyn Permits>) -> Arc<Self> {
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
    pub(crate) async fn enter(self: &Arc<Self>, again: bool, in_place: Duration) -> Result<Place, Duration> {
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

    fn take(&self, again: bool) -> Result<Place, Duration> {
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
        let wish = Wish { holder: &self.holder, used, wanted, most: self.most, lease: LEASE };
        let sent = Instant::now();
        let places = ask(self.permits.places(&self.name, wish)).await?;
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
async fn keep(shared: std::sync::Weak<SharedPlaces>) {
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
    let wish = Wish { holder: &holder, used: 0, wanted: 0, most, lease: LEASE };
    if let Err(reason) = ask(permits.places(&name, wish)).await {
        tracing::debug!(limit = name, error = reason, "places were not given back: their lease will be over");
    }
}

async fn ask<T>(answer: Answer<'_, T>) -> Result<T, String> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

impl fmt::Debug for SharedRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRate").field("name", &self.name).field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPlaces").field("name", &self.name).field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// A store in memory that counts how often it is asked.
    #[derive(Default)]
    struct Store {
        free: Mutex<Option<Instant>>,
        asked: Mutex<u32>,
        granted: Mutex<u32>,
    }

    impl Permits for Store {
        fn slots<'a>(&'a self, _: &'a str, rate: Rate, slots: u32) -> Answer<'a, i64> {
            Box::pin(async move {
                *self.asked.lock().unwrap() += 1;
                let (now, mut free) = (Instant::now(), self.free.lock().unwrap());
                let first = free.map_or(now, |free| free.max(now));
                *free = Some(first + rate.interval() * slots);
                Ok((first - now).as_nanos() as i64)
            })
        }

        fn places<'a>(&'a self, _: &'a str, wish: Wish<'a>) -> Answer<'a, u32> {
            Box::pin(async move {
                *self.asked.lock().unwrap() += 1;
                *self.granted.lock().unwrap() = wish.wanted.min(wish.most);
                Ok(wish.wanted.min(wish.most))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_leased_many_at_a_time_and_none_is_used_twice() {
        let store = Arc::new(Store::default());
        let worker = || SharedRate::new("api".into(), Rate::per_second(1_000), Arc::clone(&store) as _);
        let (one, other, started) = (worker(), worker(), Instant::now());
        let mut slots = Vec::new();
        for _ in 0..2_000 {
            for worker in [&one, &other] {
                slots.push((Instant::now() + worker.reserve().await.unwrap() - started).as_micros());
            }
        }
        slots.sort_unstable();
        assert!(slots.windows(2).all(|pair| pair[1] - pair[0] >= 999), "a slot is given twice");
        assert!(slots[3_999] < 6_000_000, "what one has leased and the other lacks is bounded: {}", slots[3_999]);
        let asked = *store.asked.lock().unwrap();
        assert!(asked <= 20, "{asked} times for 4,000 slots");
    }

    /// A store that is there and says nothing; it counts how often it is asked.
    #[derive(Default)]
    struct Silent(AtomicU32);

    impl Permits for Silent {
        fn slots<'a>(&'a self, _: &'a str, _: Rate, _: u32) -> Answer<'a, i64> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        }

        fn places<'a>(&'a self, _: &'a str, _: Wish<'a>) -> Answer<'a, u32> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_silent_holds_up_no_job_for_longer_than_one_question() {
        let (store, started) = (Arc::new(Silent::default()), Instant::now());
        let rate = SharedRate::new("api".into(), Rate::per_second(10), Arc::clone(&store) as _);
        let slots = futures_util::future::join_all((0..100).map(|_| rate.reserve())).await;
        assert!(slots.iter().all(Option::is_none) && started.elapsed() <= PATIENCE);
        assert_eq!(store.0.swap(0, Ordering::Relaxed), 1, "the others do not ask again");
        let (shared, started) = (SharedPlaces::new("db".into(), 5, 16, Arc::clone(&store) as _), Instant::now());
        let places = futures_util::future::join_all((0..100).map(|_| shared.enter(false, Duration::ZERO))).await;
        assert!(places.iter().all(Result::is_err) && started.elapsed() <= PATIENCE);
        assert_eq!(store.0.load(Ordering::Relaxed), 1);
        sleep(AWAY).await;
        assert!(shared.enter(false, Duration::ZERO).await.is_err());
        assert_eq!(store.0.load(Ordering::Relaxed), 2, "it may be back");
    }

    #[tokio::test(start_paused = true)]
    async fn slots_that_nobody_used_are_not_saved_up() {
        let store = Arc::new(Store::default());
        let worker = SharedRate::new("api".into(), Rate::per_second(100), Arc::clone(&store) as _);
        worker.reserve().await.unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        let mut at_once = 0;
        while worker.reserve().await.unwrap().is_zero() {
            at_once += 1;
        }
        assert!(at_once <= 11, "{at_once} at once");
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_asked_for_when_needed_and_given_back_when_idle_and_in_the_end() {
        let store = Arc::new(Store::default());
        let shared = SharedPlaces::new("db".into(), 5, 16, Arc::clone(&store) as _);
        let places: Vec<_> = futures_util::future::join_all((0..8).map(|_| shared.enter(false, Duration::ZERO))).await;
        let got = places.iter().filter(|place| place.is_ok()).count();
        assert!((1..=5).contains(&got), "{got}");
        drop(places);
        sleep(Duration::from_secs(30)).await;
        assert_eq!(*store.granted.lock().unwrap(), 0, "idle, it keeps none");
        let place = shared.enter(false, Duration::from_millis(100)).await.unwrap();
        drop((place, shared));
        sleep(Duration::from_secs(10)).await;
        assert_eq!(*store.granted.lock().unwrap(), 0);
    }
}
