//! A rate limit of all workers: slots are leased from the store in batches.

use std::{fmt, sync::Arc};

use tokio::time::{Duration, Instant};

use crate::limits::shared::{LimitStore, Reach, Slots, ask};
use crate::{
    limits::Rate,
    message::slot::{Secret, Slot},
};

/// How much of a rate is leased at once, in time.
const BATCH: Duration = Duration::from_millis(100);
/// The same while jobs queue up for slots that are far ahead.
const LARGEST_BATCH: Duration = Duration::from_secs(10);
const MOST_SLOTS: u32 = 100_000;

/// A rate limit of all workers.
pub(crate) struct SharedRate {
    name: String,
    rate: Rate,
    permits: Arc<dyn LimitStore>,
    batch: tokio::sync::Mutex<Batch>,
}

/// Slots that were leased and not used yet.
struct Batch {
    next: Instant,
    left: u32,
    /// The size of the last one, and when it was leased.
    size: u32,
    at: Option<Instant>,
    /// The limit's own, once the store has answered.
    secret: Option<Secret>,
    reach: Reach,
}

impl SharedRate {
    pub(crate) fn new(name: String, rate: Rate, permits: Arc<dyn LimitStore>) -> Self {
        let batch = Batch { next: Instant::now(), left: 0, size: 0, at: None, secret: None, reach: Reach::default() };
        Self { name, rate, permits, batch: tokio::sync::Mutex::new(batch) }
    }

    /// Takes the next slot, and says how long it is until then; none while the store is away.
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

    /// A slot of that time with the proof that this limit gave it to that job; none while the store is away.
    pub(crate) async fn prove(&self, at: u64, job_id: &str) -> Option<Slot> {
        let mut batch = self.batch.lock().await;
        if batch.secret.is_none() {
            self.lease(&mut batch).await?;
        }
        Some(Slot::proven(at, job_id, batch.secret.as_ref()?))
    }

    /// Takes slots for this worker; none while the store is away.
    async fn lease(&self, batch: &mut Batch) -> Option<()> {
        if batch.reach.is_away() {
            return None;
        }
        let size = batch.next_size(self.rate);
        let answer = ask(self.permits.slots(&self.name, self.rate, size)).await;
        let Slots { first, secret } = batch.reach.heard(&self.name, answer)?;
        let (now, off) = (Instant::now(), Duration::from_nanos(first.unsigned_abs()));
        batch.next = if first < 0 { now.checked_sub(off).unwrap_or(now) } else { now + off };
        (batch.left, batch.size, batch.at, batch.secret) = (size, size, Some(now), Some(secret));
        Some(())
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

impl fmt::Debug for SharedRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRate").field("name", &self.name).field("rate", &self.rate).finish_non_exhaustive()
    }
}
