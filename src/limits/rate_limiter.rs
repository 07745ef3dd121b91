//! The rate limiter: the generic cell rate algorithm (GCRA), which gives each job a slot of its own.
//!
//! The crate `governor` implements GCRA too, but it only returns when to ask again. All of a thousand waiting jobs
//! would ask again at the same time, and all but one in vain. Here, asking reserves the slot.
//!
//! Slots outlive the worker that gave them, and any publisher may write a slot into a message. So a slot only sets when
//! a job returns, and [`Starts`] decides whether it starts. A worker does not know the last starts of its predecessor,
//! so it starts no job in its first second.

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
    /// The first free slot.
    free: Mutex<Option<Instant>>,
}

impl RateLimiter {
    /// Creates a limiter whose first slots are at `opens`.
    pub(crate) fn new(rate: Rate, opens: Instant) -> Self {
        Self { rate, free: Mutex::new(opens.checked_sub(rate.tolerance())) }
    }

    /// Reserves the next slot, and returns the time until then.
    pub(crate) fn reserve(&self, now: Instant) -> Duration {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(self.rate.tolerance()).unwrap_or(now);
        let slot = free.map_or(earliest, |free| free.max(earliest));
        *free = Some(slot + self.rate.interval());
        slot.saturating_duration_since(now)
    }
}

/// Returns when a worker created now may start its first job. At a rate below one a second, that is at once: a worker
/// that restarts more often would otherwise never start a job.
pub(crate) fn opens(rate: Rate) -> Instant {
    let now = Instant::now();
    if rate.interval() > SECOND { now } else { now + SECOND }
}

/// The starts of this process, which never exceed the rate: neither in any second (or interval, if that is longer) nor
/// on average.
#[derive(Debug)]
pub(crate) struct Starts {
    interval: Duration,
    window: Duration,
    /// Most starts within the window.
    most: usize,
    opens: Instant,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    /// The starts of the last window, the oldest first.
    starts: VecDeque<Instant>,
    /// The time at which all starts so far would be used up, spread evenly.
    even: Option<Instant>,
}

impl Starts {
    pub(crate) fn new(rate: Rate, opens: Instant) -> Self {
        let window = rate.interval().max(SECOND);
        // In nanoseconds, an interval of a third of a second rounds down; that must not allow a fourth start.
        let spread = (window.as_secs_f64() / rate.interval().as_secs_f64() - 1e-6).ceil() as usize;
        let ahead = (rate.tolerance().as_nanos() / rate.interval().as_nanos()) as usize;
        let most = spread.max(1).saturating_add(ahead);
        Self { interval: rate.interval(), window, most, opens, log: Mutex::default() }
    }

    /// Records a start with all of these if each allows one now; otherwise returns the time until then.
    pub(crate) fn start_all(all: &[Self], now: Instant) -> Result<(), Duration> {
        // The locks are always taken in the same order.
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

    /// Returns the time until the next allowed start.
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

    /// Asks continuously, and returns the times of the starts.
    async fn ask_for_a_minute(starts: &Starts) -> Vec<Instant> {
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(60) {
            times.extend(start(starts).is_ok().then(Instant::now));
            tokio::time::advance(Duration::from_micros(1_700)).await;
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_start_than_the_rate_in_any_window_or_on_average_however_often_it_is_asked() {
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
            // The allowed lead adds to the total once; slots asked for too late are lost.
            assert!(all <= in_a_minute + in_a_second && all * 100 >= in_a_minute * 95, "{rate:?}: {all}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_must_wait_is_allowed_at_the_returned_time() {
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
    async fn the_nth_waiting_job_gets_the_nth_slot() {
        let limiter = RateLimiter::new(Rate::per_second(10), Instant::now());
        let waits: Vec<_> = (0..4).map(|_| limiter.reserve(Instant::now())).collect();
        assert_eq!(waits, [ms(0), ms(100), ms(200), ms(300)]);
        tokio::time::advance(ms(250)).await;
        assert_eq!(limiter.reserve(Instant::now()), ms(150), "slots are not given twice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_available_after_a_pause_and_not_accumulated_beyond_it() {
        let limiter = RateLimiter::new(Rate::per_second(10).burst(3), Instant::now());
        let now = Instant::now();
        let waits: Vec<_> = (0..5).map(|_| limiter.reserve(now)).collect();
        assert_eq!(waits, [ms(0), ms(0), ms(0), ms(100), ms(200)]);
        tokio::time::advance(Duration::from_secs(3600)).await;
        let now = Instant::now();
        let waits: Vec<_> = (0..4).map(|_| limiter.reserve(now)).collect();
        assert_eq!(waits, [ms(0), ms(0), ms(0), ms(100)]);
    }

    #[tokio::test(start_paused = true)]
    async fn over_a_long_time_no_more_slots_than_the_rate_are_reserved() {
        let limiter = RateLimiter::new(Rate::per_second(1000).burst(5), Instant::now());
        let (start, mut last) = (Instant::now(), Duration::ZERO);
        for _ in 0..10_000 {
            last = last.max(Instant::now() + limiter.reserve(Instant::now()) - start);
            tokio::time::advance(Duration::from_micros(300)).await;
        }
        assert!(last >= ms(9_990), "{last:?} for 10,000");
    }
}
