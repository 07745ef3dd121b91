//! Places for jobs of one kind, such as those of one customer: so many run at once, the others wait.
//!
//! Nobody knows when a place becomes free. So the wait of one that comes anew is estimated from how long those before it
//! took, one behind the other; one that comes back and finds no place still waits as long as the eldest has been running
//! already: a job that takes an hour is asked about a dozen times, not every second. No wait is longer than a minute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use crate::topology::delay::UNIT;

/// A wait is an estimate: after this time it is made anew.
const LONGEST: Duration = Duration::from_secs(60);
/// What a job is thought to take before any has ended.
const UNKNOWN: Duration = UNIT;

#[derive(Debug, Default)]
pub(crate) struct KeyedSemaphore {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    keys: HashMap<u64, Key, foldhash::fast::RandomState>,
    /// Keys that nobody runs or waits for are dropped when there are so many.
    sweep_at: usize,
    /// How long a job takes, as a moving average.
    takes: Duration,
}

#[derive(Debug, Default)]
struct Key {
    /// When each that runs started.
    running: Vec<Instant>,
    /// Until when those that wait are thought to have the places.
    line: Option<Instant>,
}

/// A place that is given back when dropped.
#[derive(Debug)]
pub(crate) struct KeyedPermit {
    places: Arc<KeyedSemaphore>,
    key: u64,
    since: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self { keys: HashMap::default(), sweep_at: 1_024, takes: UNKNOWN }
    }
}

impl KeyedSemaphore {
    /// A place for `key` if fewer than `most` of it are taken, else the time to wait. `again` says that the job has
    /// waited before.
    pub(crate) fn take(self: &Arc<Self>, key: u64, most: u32, again: bool) -> Result<KeyedPermit, Duration> {
        let (now, mut state) = (Instant::now(), self.lock());
        if state.keys.len() >= state.sweep_at {
            state.keys.retain(|_, key| !key.running.is_empty() || key.line.is_some_and(|line| line > now));
            state.sweep_at = (state.keys.len() * 2).max(1_024);
        }
        let each = state.takes / most.max(1);
        let entry = state.keys.entry(key).or_default();
        if entry.running.len() < most as usize {
            entry.running.push(now);
            return Ok(KeyedPermit { places: Arc::clone(self), key, since: now });
        }
        let wait = if again {
            entry.running.iter().min().map_or(each, |eldest| now.duration_since(*eldest).max(each))
        } else {
            let line = entry.line.unwrap_or(now).max(now) + each;
            entry.line = Some(line.min(now + LONGEST));
            line - now
        };
        Err(wait.min(LONGEST))
    }

    /// As [`take`](Self::take), but waits here for a place if that is thought to take no longer than `in_place`.
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
            if let Ok(place) = self.take(key, most(), true) {
                return Ok(place);
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(wait);
            }
        }
    }

    /// How many have a place, and how long they take.
    pub(crate) fn taken(&self, key: u64) -> u32 {
        self.lock().keys.get(&key).map_or(0, |key| key.running.len() as u32)
    }

    /// Lets those that wait here look again.
    pub(crate) fn wake(&self) {
        self.freed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyedPermit {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        let took = self.since.elapsed();
        state.takes = state.takes * 7 / 8 + took / 8;
        if let Some(key) = state.keys.get_mut(&self.key) {
            if let Some(mine) = key.running.iter().position(|since| *since == self.since) {
                key.running.swap_remove(mine);
            }
            if key.running.is_empty() && key.line.is_none() {
                state.keys.remove(&self.key);
            }
        }
        drop(state);
        self.places.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_allowed_have_a_place_and_other_keys_are_not_held_up() {
        let places = Arc::new(KeyedSemaphore::default());
        let first = places.take(1, 2, false).unwrap();
        let _second = places.take(1, 2, false).unwrap();
        assert!(places.take(1, 2, false).is_err());
        assert!(places.take(2, 2, false).is_ok());
        drop(first);
        assert!(places.take(1, 2, false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn each_that_waits_waits_longer_than_the_one_before_by_what_a_job_takes() {
        let places = Arc::new(KeyedSemaphore::default());
        for _ in 0..100 {
            let place = places.take(7, 1, false).unwrap();
            tokio::time::advance(ms(800)).await;
            drop(place);
        }
        let _running = places.take(1, 1, false).unwrap();
        let waits: Vec<_> = (0..3).map(|_| places.take(1, 1, false).unwrap_err().as_millis()).collect();
        assert!((790..=800).contains(&waits[0]), "{waits:?}");
        assert!((1580..=1600).contains(&waits[1]) && (2370..=2400).contains(&waits[2]), "{waits:?}");
        let far = (0..1_000).map(|_| places.take(1, 1, false).unwrap_err()).max();
        assert_eq!(far, Some(LONGEST));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_back_to_a_long_job_waits_ever_longer() {
        let places = Arc::new(KeyedSemaphore::default());
        let _running = places.take(1, 1, false).unwrap();
        let mut asked = 0;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(600) {
            let wait = places.take(1, 1, asked > 0).unwrap_err();
            tokio::time::advance(wait.max(UNIT)).await;
            asked += 1;
        }
        assert!(asked < 30, "asked {asked} times in ten minutes");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_not_used_any_more_are_forgotten() {
        let places = Arc::new(KeyedSemaphore::default());
        for key in 0..10_000 {
            let place = places.take(key, 1, false).unwrap();
            drop((places.take(key, 1, false), place));
            tokio::time::advance(ms(10)).await;
        }
        assert!(places.lock().keys.len() < 3_000, "{}", places.lock().keys.len());
    }
}
