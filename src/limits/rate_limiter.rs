//! The line before a rate limit: the generic cell rate algorithm (GCRA), which gives each that asks a slot of its own.
//!
//! The crate `governor` implements GCRA too, but it only says when to ask again: of a thousand that wait, all ask again
//! at the same time and all but one in vain. Here the asking *is* the reservation.
//!
//! Slots outlive the worker that gave them, and anybody may write one into a message. So a slot only says when a job comes
//! back, and [`Starts`] decides whether it starts then. A worker does not know what the one before it has started just now:
//! it starts nothing in its first second.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::time::{Duration, Instant};

use crate::limits::Rate;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct RateLimiter {
    rate: Rate,
    /// The first slot that nobody has.
    free: Mutex<Option<Instant>>,
}

impl RateLimiter {
    /// One whose first slots are when it opens.
    pub(crate) fn new(rate: Rate, opens: Instant) -> Self {
        Self { rate, free: Mutex::new(opens.checked_sub(rate.tolerance())) }
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

/// When a worker that is made now may start its first job. A rate of less than one a second it begins at once with: a
/// worker that is restarted more often than that would never start any.
pub(crate) fn opens(rate: Rate) -> Instant {
    let now = Instant::now();
    if rate.interval() > SECOND { now } else { now + SECOND }
}

/// The starts of this process, which never exceed the rate: neither in any second (or interval, if that is longer) nor in
/// the long run.
#[derive(Debug)]
pub(crate) struct Starts {
    interval: Duration,
    window: Duration,
    /// So many may start within the window.
    most: usize,
    opens: Instant,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    /// The starts of the last window, the oldest first.
    starts: VecDeque<Instant>,
    /// When all starts so far would be over, spread evenly.
    even: Option<Instant>,
}

impl Starts {
    pub(crate) fn new(rate: Rate, opens: Instant) -> Self {
        let window = rate.interval().max(SECOND);
        // A third of a second is less than it, in nanoseconds: that must not count as a fourth start.
        let spread = (window.as_secs_f64() / rate.interval().as_secs_f64() - 1e-6).ceil() as usize;
        let ahead = (rate.tolerance().as_nanos() / rate.interval().as_nanos()) as usize;
        let most = spread.max(1).saturating_add(ahead);
        Self { interval: rate.interval(), window, most, opens, log: Mutex::default() }
    }

    /// Notes a start with all of these if there may be one now with each; else says for how long there may be none.
    pub(crate) fn start_all(all: &[Self], now: Instant) -> Result<(), Duration> {
        // Always in the same order.
        let mut logs: Vec<_> =
            all.iter().map(|starts| (starts, starts.log.lock().unwrap_or_else(PoisonError::into_inner))).collect();
        let wait = logs.iter_mut().map(|(starts, log)| starts.wait(log, now)).max().unwrap_or_default();
        if !wait.is_zero() {
            return Err(wait);
        }
        for (starts, log) in &mut logs {
            log.starts.push_back(now);
            log.even = Some(log.even.map_or(now, |even| even.max(now)) + starts.interval);
        }
        Ok(())
    }

    /// For how long there may be no start.
    fn wait(&self, log: &mut Log, now: Instant) -> Duration {
        while log.starts.front().is_some_and(|at| *at + self.window <= now) {
            log.starts.pop_front();
        }
        let even = log.even.map_or(now, |even| even.max(now));
        let ahead = self.interval.saturating_mul(u32::try_from(self.most - 1).unwrap_or(u32::MAX));
        let early = (even - now).saturating_sub(ahead);
        let full = if log.starts.len() < self.most { Duration::ZERO } else { log.starts[0] + self.window - now };
        early.max(full).max(self.opens.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(starts: &Starts) -> Result<(), Duration> {
        Starts::start_all(std::slice::from_ref(starts), Instant::now())
    }

    /// Asks all the time, and says when there were starts.
    async fn ask_for_a_minute(starts: &Starts) -> Vec<Instant> {
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(60) {
            times.extend(start(starts).is_ok().then(Instant::now));
            tokio::time::advance(Duration::from_micros(1_700)).await;
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_start_than_the_rate_in_any_window_nor_in_the_long_run_however_often_it_is_asked() {
        let minute = Duration::from_secs(60);
        let table = [
            (Rate::per_second(10), 10, 600),
            (Rate::per_second(3), 3, 180),
            (Rate::per_second(7), 7, 420),
            (Rate::per_second(250), 250, 15_000),
            (Rate::per_second(10).burst(5), 14, 600),
            (Rate::new(90, minute), 2, 90),
            (Rate::new(1, Duration::from_secs(5)), 1, 12),
        ];
        for (rate, in_a_second, in_a_minute) in table {
            let times = ask_for_a_minute(&Starts::new(rate, Instant::now())).await;
            let within = |window: Duration| {
                (0..times.len()).map(|n| times[n..].partition_point(|at| *at < times[n] + window)).max().unwrap()
            };
            assert_eq!(within(Duration::from_secs(1)), in_a_second, "{rate:?}");
            let all = times.len();
            // What may be ahead comes on top, once; what is asked too late is lost.
            assert!(all <= in_a_minute + in_a_second && all * 100 >= in_a_minute * 95, "{rate:?}: {all}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_must_wait_may_be_when_it_was_told() {
        let starts = Starts::new(Rate::per_second(2), Instant::now());
        assert_eq!((start(&starts), start(&starts)), (Ok(()), Ok(())));
        tokio::time::advance(ms(300)).await;
        assert_eq!(start(&starts), Err(ms(700)));
        tokio::time::advance(ms(700)).await;
        assert_eq!(start(&starts), Ok(()));
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn the_nth_that_waits_gets_the_nth_slot() {
        let line = RateLimiter::new(Rate::per_second(10), Instant::now());
        let waits: Vec<_> = (0..4).map(|_| line.reserve(Instant::now())).collect();
        assert_eq!(waits, [ms(0), ms(100), ms(200), ms(300)]);
        tokio::time::advance(ms(250)).await;
        assert_eq!(line.reserve(Instant::now()), ms(150), "slots are not given twice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_had_after_a_pause_and_not_saved_up_beyond_it() {
        let line = RateLimiter::new(Rate::per_second(10).burst(3), Instant::now());
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
        let line = RateLimiter::new(Rate::per_second(1000).burst(5), Instant::now());
        let (start, mut last) = (Instant::now(), Duration::ZERO);
        for _ in 0..10_000 {
            last = last.max(Instant::now() + line.reserve(Instant::now()) - start);
            tokio::time::advance(Duration::from_micros(300)).await;
        }
        assert!(last >= ms(9_990), "{last:?} for 10,000");
    }
}
