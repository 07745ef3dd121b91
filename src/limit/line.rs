//! The line before a rate limit: the generic cell rate algorithm (GCRA), which gives each that asks a slot of its own.
//!
//! The crate `governor` implements GCRA too, but it only says when to ask again: of a thousand that wait, all ask again
//! at the same time and all but one in vain. Here the asking *is* the reservation.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use super::Rate;

#[derive(Debug)]
pub(crate) struct Line {
    rate: Rate,
    /// The first slot that nobody has.
    free: Mutex<Option<Instant>>,
}

impl Line {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, free: Mutex::new(None) }
    }

    /// Takes the next slot, and says how long it is until then.
    pub(crate) fn reserve(&self, now: Instant) -> Duration {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(self.rate.tolerance()).unwrap_or(now);
        let slot = free.map_or(earliest, |free| free.max(earliest));
        *free = Some(slot + self.rate.interval());
        slot.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn the_nth_that_waits_gets_the_nth_slot() {
        let line = Line::new(Rate::per_second(10));
        let waits: Vec<_> = (0..4).map(|_| line.reserve(Instant::now())).collect();
        assert_eq!(waits, [ms(0), ms(100), ms(200), ms(300)]);
        tokio::time::advance(ms(250)).await;
        assert_eq!(line.reserve(Instant::now()), ms(150), "slots are not given twice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_had_after_a_pause_and_not_saved_up_beyond_it() {
        let line = Line::new(Rate::per_second(10).burst(3));
        let now = Instant::now();
        let waits: Vec<_> = (0..5).map(|_| line.reserve(now)).collect();
        assert_eq!(waits, [ms(0), ms(0), ms(0), ms(100), ms(200)]);
        tokio::time::advance(Duration::from_secs(3600)).await;
        let now = Instant::now();
        let waits: Vec<_> = (0..4).map(|_| line.reserve(now)).collect();
        assert_eq!(waits, [ms(0), ms(0), ms(0), ms(100)]);
    }

    #[tokio::test(start_paused = true)]
    async fn over_a_long_time_no_more_than_the_rate_is_given_out() {
        let line = Line::new(Rate::per_second(1000).burst(5));
        let (start, mut last) = (Instant::now(), Duration::ZERO);
        for _ in 0..10_000 {
            last = last.max(Instant::now() + line.reserve(Instant::now()) - start);
            tokio::time::advance(Duration::from_micros(300)).await;
        }
        assert!(last >= ms(9_990), "{last:?} for 10,000");
    }
}
