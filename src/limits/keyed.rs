//! A semaphore for each key, such as a customer: a limited number of its jobs runs at once, the others wait.
//!
//! The time at which a slot becomes free is unknown. A new job's wait is therefore estimated from the average duration
//! of jobs, with all waiting jobs in sequence. A job that returns and finds no slot waits as long as the oldest running
//! job has run already. So a job of an hour causes about a dozen checks, not one a second. No wait exceeds a minute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use crate::topology::delay::UNIT;

/// Longest wait. A wait is an estimate, and is estimated anew after this time.
const LONGEST: Duration = Duration::from_secs(60);
/// Assumed duration of a job before any has ended.
const UNKNOWN: Duration = UNIT;

#[derive(Debug, Default)]
pub(crate) struct KeyedSemaphore {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    keys: HashMap<u64, Key, foldhash::fast::RandomState>,
    /// Number of keys at which unused keys are dropped.
    sweep_at: usize,
    /// Average duration of a job (moving average).
    takes: Duration,
}

#[derive(Debug, Default)]
struct Key {
    /// Start of each running job.
    running: Vec<Instant>,
    /// Time until which the waiting jobs are expected to use the slots.
    reserved_until: Option<Instant>,
}

/// A slot that is released when this is dropped.
#[derive(Debug)]
pub(crate) struct KeyedPermit {
    semaphore: Arc<KeyedSemaphore>,
    key: u64,
    since: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self { keys: HashMap::default(), sweep_at: 1_024, takes: UNKNOWN }
    }
}

impl KeyedSemaphore {
    /// Takes a slot of `key` if fewer than `most` are taken, or returns the time to wait. `again` means that the job
    /// has waited before.
    pub(crate) fn take(self: &Arc<Self>, key: u64, most: u32, again: bool) -> Result<KeyedPermit, Duration> {
        let (now, mut state) = (Instant::now(), self.lock());
        if state.keys.len() >= state.sweep_at {
            state.keys.retain(|_, key| !key.running.is_empty() || key.reserved_until.is_some_and(|until| until > now));
            state.sweep_at = (state.keys.len() * 2).max(1_024);
        }
        let each = state.takes / most.max(1);
        let entry = state.keys.entry(key).or_default();
        if entry.running.len() < most as usize {
            entry.running.push(now);
            return Ok(KeyedPermit { semaphore: Arc::clone(self), key, since: now });
        }
        let wait = if again {
            entry.running.iter().min().map_or(each, |oldest| now.duration_since(*oldest).max(each))
        } else {
            let reserved_until = entry.reserved_until.unwrap_or(now).max(now) + each;
            entry.reserved_until = Some(reserved_until.min(now + LONGEST));
            reserved_until - now
        };
        Err(wait.min(LONGEST))
    }

    /// Like [`take`](Self::take), but waits here for a slot if the expected wait is at most `in_place`.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        key: u64,
        most: impl Fn() -> u32,
        again: bool,
        in_place: Duration,
    ) -> Result<KeyedPermit, Duration> {
        let wait = match self.take(key, most(), again) {
            Err(wait) if wait <= in_place => wait,
            taken => return taken,
        };
        let until = Instant::now() + in_place;
        loop {
            let freed = self.freed.notified();
            if let Ok(slot) = self.take(key, most(), true) {
                return Ok(slot);
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(wait);
            }
        }
    }

    /// Returns the number of taken slots.
    pub(crate) fn taken(&self, key: u64) -> u32 {
        self.lock().keys.get(&key).map_or(0, |key| key.running.len() as u32)
    }

    /// Makes the jobs that wait here check again.
    pub(crate) fn wake(&self) {
        self.freed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyedPermit {
    fn drop(&mut self) {
        let mut state = self.semaphore.lock();
        let took = self.since.elapsed();
        state.takes = state.takes * 7 / 8 + took / 8;
        if let Some(key) = state.keys.get_mut(&self.key) {
            if let Some(mine) = key.running.iter().position(|since| *since == self.since) {
                key.running.swap_remove(mine);
            }
            if key.running.is_empty() && key.reserved_until.is_none() {
                state.keys.remove(&self.key);
            }
        }
        drop(state);
        self.semaphore.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_have_a_slot_and_other_keys_are_not_delayed() {
        let semaphore = Arc::new(KeyedSemaphore::default());
        let first = semaphore.take(1, 2, false).unwrap();
        let _second = semaphore.take(1, 2, false).unwrap();
        assert!(semaphore.take(1, 2, false).is_err());
        assert!(semaphore.take(2, 2, false).is_ok());
        drop(first);
        assert!(semaphore.take(1, 2, false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn each_waiting_job_waits_longer_than_the_one_before_by_the_duration_of_a_job() {
        let semaphore = Arc::new(KeyedSemaphore::default());
        for _ in 0..100 {
            let slot = semaphore.take(7, 1, false).unwrap();
            tokio::time::advance(ms(800)).await;
            drop(slot);
        }
        let _running = semaphore.take(1, 1, false).unwrap();
        let waits: Vec<_> = (0..3).map(|_| semaphore.take(1, 1, false).unwrap_err().as_millis()).collect();
        assert!((790..=800).contains(&waits[0]), "{waits:?}");
        assert!((1580..=1600).contains(&waits[1]) && (2370..=2400).contains(&waits[2]), "{waits:?}");
        let far = (0..1_000).map(|_| semaphore.take(1, 1, false).unwrap_err()).max();
        assert_eq!(far, Some(LONGEST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_returns_during_a_long_job_waits_ever_longer() {
        let semaphore = Arc::new(KeyedSemaphore::default());
        let _running = semaphore.take(1, 1, false).unwrap();
        let mut asked = 0;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(600) {
            let wait = semaphore.take(1, 1, asked > 0).unwrap_err();
            tokio::time::advance(wait.max(UNIT)).await;
            asked += 1;
        }
        assert!(asked < 30, "asked {asked} times in ten minutes");
    }

    #[tokio::test(start_paused = true)]
    async fn unused_keys_are_dropped() {
        let semaphore = Arc::new(KeyedSemaphore::default());
        for key in 0..10_000 {
            let slot = semaphore.take(key, 1, false).unwrap();
            drop((semaphore.take(key, 1, false), slot));
            tokio::time::advance(ms(10)).await;
        }
        assert!(semaphore.lock().keys.len() < 3_000, "{}", semaphore.lock().keys.len());
    }
}
