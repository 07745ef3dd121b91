//! The checks before an attempt: closed circuits, a slot of its key, a slot of the rate.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::IntCounter;
use tokio::time::{Instant, sleep};

use crate::{
    backoff,
    error::JobResult,
    limits::circuit_breaker::{Breaker, CircuitAdmission, Sign},
    message::Message,
    time::millis,
    topology::delay::UNIT,
};
use crate::{
    limits::{
        keyed::{KeyedPermit, KeyedSemaphore},
        rate_limiter::{RateLimiter, Starts},
        shared::{SharedConcurrency, SharedRate},
    },
    message::rate_slot::RateSlot,
};

/// CPU time that broker and worker spend on one job's way through the delay ladder.
///
/// It sets the longest wait in place. An idle slot of the queue's concurrency costs the other jobs `w / concurrency` in
/// a wait of `w`. So the ladder is cheaper from `concurrency × TRIP` on.
const TRIP: Duration = Duration::from_micros(300);
/// Longest wait in place if no other job would run meanwhile.
const ALONE: Duration = Duration::from_secs(1);
/// Lateness after which a slot is lost. Otherwise, jobs that return together after a day without workers would run all
/// at once.
const LATE: Duration = Duration::from_secs(5);
/// Shortest wait of jobs while the store of limits is unreachable; the longest is twice that.
const UNREACHABLE_WAIT: Duration = Duration::from_secs(5);

/// Returns the key of a job that is limited by key; `None` for an undecodable payload.
pub(crate) type KeyOf = Arc<dyn Fn(&Message) -> Option<u64> + Send + Sync>;

/// The limits of one registered handler.
pub(crate) struct Limiter {
    pub(crate) needs: Vec<Arc<Breaker>>,
    pub(crate) key: Option<(KeyOf, u32, Arc<KeyedSemaphore>)>,
    pub(crate) rate: Option<RateLimiter>,
    pub(crate) shared_rate: Option<SharedRate>,
    /// Starts of this process under each of the two rates.
    pub(crate) starts: Vec<Starts>,
    pub(crate) shared_concurrency: Option<Arc<SharedConcurrency>>,
    pub(crate) in_place: Duration,
    pub(crate) held: Deferred,
}

/// Counters of jobs that had to wait, by reason.
#[derive(Debug)]
pub(crate) struct Deferred {
    pub(crate) circuit: IntCounter,
    pub(crate) key: IntCounter,
    pub(crate) concurrency: IntCounter,
    pub(crate) rate: IntCounter,
}

/// The reason for which a job does not run now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Deferral {
    pub(crate) delay: Duration,
    /// Its slot before a rate limit.
    pub(crate) slot: Option<RateSlot>,
}

/// Permission for one attempt.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) circuits: Arc<UsedCircuits>,
    /// The circuits for which it is the probe, one bit each.
    probes: u64,
    /// Released when the last clone of the attempt's context is dropped.
    pub(crate) permits: Vec<KeyedPermit>,
}

/// The circuits of one attempt, except those that its handler skipped.
#[derive(Debug)]
pub(crate) struct UsedCircuits {
    limiter: Arc<Limiter>,
    /// The circuits whose service the attempt did not use, one bit each.
    skipped: AtomicU64,
}

/// Returns the longest wait of a job in place.
pub(crate) fn in_place(concurrency: u16, is_alone: bool) -> Duration {
    if is_alone { ALONE } else { (TRIP * u32::from(concurrency)).min(UNIT) }
}

impl Limiter {
    /// Admits the job, at once or after some milliseconds, or returns how long it waits in the broker. `was_delayed` is
    /// true for a job that returns from a delay. `now_ms` is the broker's time.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        message: &Message,
        was_delayed: bool,
        now_ms: u64,
    ) -> Result<Admitted, Deferral> {
        let arrived = Instant::now();
        let slot = RateSlot::of(message, now_ms);
        let circuits = Arc::new(UsedCircuits { limiter: Arc::clone(self), skipped: AtomicU64::new(0) });
        let mut admitted = Admitted { circuits, probes: 0, permits: Vec::new() };
        for (index, breaker) in self.needs.iter().enumerate() {
            match breaker.admit(backoff::draws().0) {
                CircuitAdmission::Run => {}
                CircuitAdmission::Probe => admitted.probes |= 1 << index,
                CircuitAdmission::Wait(delay) => {
                    self.held.circuit.inc();
                    return Err(Deferral { delay, slot });
                }
            }
        }
        let no_slot = |held: &IntCounter, delay| {
            held.inc();
            Deferral { delay, slot }
        };
        if let Some((key_of, most, semaphore)) = &self.key
            && let Some(key) = key_of(message)
        {
            let slot = semaphore.enter(key, || *most, was_delayed, self.in_place).await;
            admitted.permits.push(slot.map_err(|delay| no_slot(&self.held.key, delay))?);
        }
        if let Some(shared) = &self.shared_concurrency {
            let slot = shared.enter(was_delayed, self.in_place).await;
            admitted.permits.push(slot.map_err(|delay| no_slot(&self.held.concurrency, delay))?);
        }
        if self.rate.is_some() || self.shared_rate.is_some() {
            self.wait_for_slot(message.id().unwrap_or_default(), slot, now_ms + millis(arrived.elapsed())).await?;
        }
        Ok(admitted)
    }

    /// Waits for the job's slot, and for its start. A slot only sets when the job returns. The starts of this process
    /// decide whether the job starts, also for a slot from elsewhere.
    async fn wait_for_slot(&self, job_id: &str, slot: Option<RateSlot>, now_ms: u64) -> Result<(), Deferral> {
        let began = Instant::now();
        let (wait, slot) = match slot {
            Some(slot) if slot.at.saturating_add(millis(LATE)) >= now_ms && self.has_given(slot, job_id).await? => {
                (Duration::from_millis(slot.at.saturating_sub(now_ms)), slot)
            }
            _ => self.reserve(job_id, now_ms, Duration::ZERO).await?,
        };
        if wait > self.in_place {
            return Err(self.hold(wait, Some(slot)));
        }
        if !wait.is_zero() {
            sleep(wait).await;
        }
        // The ladder delivers jobs up to 0.1 s late. Jobs that arrive together then wait here for each other.
        let until = Instant::now() + self.in_place.max(UNIT);
        while let Err(wait) = self.start() {
            if Instant::now() + wait > until {
                let (wait, slot) = self.reserve(job_id, now_ms + millis(began.elapsed()), wait).await?;
                return Err(self.hold(wait, Some(slot)));
            }
            sleep(wait).await;
        }
        Ok(())
    }

    /// Records a start, unless a rate forbids it now.
    fn start(&self) -> Result<(), Duration> {
        Starts::start_all(&self.starts, Instant::now())
    }

    /// Returns whether a shared limit has given this slot. Without a shared limit, every slot is accepted, because it
    /// only sets the time of return.
    async fn has_given(&self, slot: RateSlot, job_id: &str) -> Result<bool, Deferral> {
        let Some(shared) = &self.shared_rate else { return Ok(true) };
        let proven = shared.prove(slot.at, job_id).await.ok_or_else(|| self.hold_while_unreachable(Some(slot)))?;
        Ok(proven == slot)
    }

    /// Returns the wait until the next slot, at least `at_least`, and the slot. With two limits, it satisfies both.
    async fn reserve(&self, job_id: &str, now_ms: u64, at_least: Duration) -> Result<(Duration, RateSlot), Deferral> {
        let own = self.rate.as_ref().map_or(Duration::ZERO, |limiter| limiter.reserve(Instant::now())).max(at_least);
        let Some(shared) = &self.shared_rate else {
            return Ok((own, RateSlot { at: now_ms + millis(own), proof: None }));
        };
        let unreachable = || self.hold_while_unreachable(None);
        let wait = shared.reserve().await.ok_or_else(unreachable)?.max(own);
        let slot = shared.prove(now_ms + millis(wait), job_id).await.ok_or_else(unreachable)?;
        Ok((wait, slot))
    }

    fn hold(&self, delay: Duration, slot: Option<RateSlot>) -> Deferral {
        self.held.rate.inc();
        Deferral { delay, slot }
    }

    fn hold_while_unreachable(&self, slot: Option<RateSlot>) -> Deferral {
        self.hold(UNREACHABLE_WAIT.mul_f64(1.0 + backoff::draws().0), slot)
    }
}

impl Admitted {
    /// Records the result of the attempt.
    pub(crate) fn ended(mut self, result: &JobResult) {
        let probes = std::mem::take(&mut self.probes);
        let skipped = self.circuits.skipped.load(Ordering::Relaxed);
        for (index, breaker) in self.circuits.limiter.needs.iter().enumerate() {
            let sign = Sign::of(result, breaker.name(), skipped >> index & 1 == 1);
            breaker.report(sign, probes >> index & 1 == 1);
        }
    }
}

impl UsedCircuits {
    pub(crate) fn skip(&self, name: &str) {
        if let Some(index) = self.limiter.needs.iter().position(|breaker| breaker.name() == name) {
            self.skipped.fetch_or(1 << index, Ordering::Relaxed);
        }
    }
}

impl Drop for Admitted {
    /// An attempt that did not start, or was cut off, is inconclusive.
    fn drop(&mut self) {
        for (index, breaker) in self.circuits.limiter.needs.iter().enumerate() {
            if self.probes >> index & 1 == 1 {
                breaker.report(Sign::None, true);
            }
        }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("needs", &self.needs).field("rate", &self.rate).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "limiter_tests.rs"]
mod tests;
