//! A rate limit shared by all workers: slots are leased from the store in batches.

use std::{fmt, sync::Arc};

use tokio::time::{Duration, Instant};

use crate::limits::shared::{LimitStore, Reach, Slots, ask};
use crate::{
    limits::Rate,
    message::rate_slot::{RateSlot, Secret},
};

/// Smallest batch of slots, as a time at the rate.
const BATCH: Duration = Duration::from_millis(100);
/// Largest batch, for when jobs wait for slots far ahead.
const LARGEST_BATCH: Duration = Duration::from_secs(10);
const MOST_SLOTS: u32 = 100_000;

/// A rate limit shared by all workers.
pub(crate) struct SharedRate {
    name: String,
    rate: Rate,
    store: Arc<dyn LimitStore>,
    batch: tokio::sync::Mutex<Batch>,
}

/// Leased slots that are not used yet.
struct Batch {
    next: Instant,
    left: u32,
    /// The size of the last batch, and the time of its lease.
    size: u32,
    at: Option<Instant>,
    /// The limit's secret, once the store has answered.
    secret: Option<Secret>,
    reach: Reach,
}

impl SharedRate {
    pub(crate) fn new(name: String, rate: Rate, store: Arc<dyn LimitStore>) -> Self {
        let batch = Batch { next: Instant::now(), left: 0, size: 0, at: None, secret: None, reach: Reach::default() };
        Self { name, rate, store, batch: tokio::sync::Mutex::new(batch) }
    }

    /// Reserves the next slot, and returns the time until then; `None` while the store is unreachable.
    pub(crate) async fn reserve(&self) -> Option<Duration> {
        let mut batch = self.batch.lock().await;
        batch.skip_stale(self.rate, Instant::now());
        if batch.left == 0 {
            self.lease(&mut batch).await?;
        }
        let slot = batch.next;
        batch.next += self.rate.interval();
        batch.left -= 1;
        Some(slot.saturating_duration_since(Instant::now()))
    }

    /// Returns a slot at that time, with the proof that this limit gave it to that job; `None` while the store is
    /// unreachable.
    pub(crate) async fn prove(&self, at: u64, job_id: &str) -> Option<RateSlot> {
        let mut batch = self.batch.lock().await;
        if batch.secret.is_none() {
            self.lease(&mut batch).await?;
        }
        Some(RateSlot::proven(at, job_id, batch.secret.as_ref()?))
    }

    /// Leases slots for this worker; `None` while the store is unreachable.
    async fn lease(&self, batch: &mut Batch) -> Option<()> {
        if batch.reach.is_unreachable() {
            return None;
        }
        let size = batch.next_size(self.rate);
        let answer = ask(self.store.slots(&self.name, self.rate, size)).await;
        let Slots { first, secret } = batch.reach.record(&self.name, answer)?;
        let (now, off) = (Instant::now(), Duration::from_nanos(first.unsigned_abs()));
        batch.next = if first < 0 { now.checked_sub(off).unwrap_or(now) } else { now + off };
        (batch.left, batch.size, batch.at, batch.secret) = (size, size, Some(now), Some(secret));
        Some(())
    }
}

impl Batch {
    /// Drops slots whose time has passed, so that they do not accumulate.
    fn skip_stale(&mut self, rate: Rate, now: Instant) {
        let kept = rate.tolerance().max(BATCH);
        let late = now.saturating_duration_since(self.next).saturating_sub(kept);
        let passed = u32::try_from(late.as_nanos() / rate.interval().as_nanos()).unwrap_or(u32::MAX).min(self.left);
        self.next += rate.interval() * passed;
        self.left -= passed;
    }

    fn next_size(&self, rate: Rate) -> u32 {
        let slots = |time: Duration| (time.as_nanos() / rate.interval().as_nanos()).clamp(1, MOST_SLOTS.into()) as u32;
        let was_used_up = self.at.is_some_and(|at| at.elapsed() < BATCH);
        let size = if was_used_up { self.size.saturating_mul(2) } else { self.size / 2 };
        size.clamp(slots(BATCH), slots(LARGEST_BATCH))
    }
}

impl fmt::Debug for SharedRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRate").field("name", &self.name).field("rate", &self.rate).finish_non_exhaustive()
    }
}
