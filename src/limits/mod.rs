//! Limits on the rate and the concurrency of jobs: the checks before an attempt.
//!
//! A waiting job does not block its queue. It goes to the delay ladder until its turn, and no attempt counts. Each job
//! reserves a slot of its own, so it returns once and runs. Slots that become free when other jobs end have no known
//! time; it is estimated from the duration of jobs.

pub(crate) mod circuit_breaker;
pub(crate) mod flow;
pub(crate) mod keyed;
pub(crate) mod limiter;
pub(crate) mod rate_limiter;
pub(crate) mod shared;

pub use self::shared::{Answer, LeaseRequest, LimitStore, Slots};

use std::time::Duration;

/// The largest number of starts in a time, evenly spread, with optional bursts.
///
/// ```
/// use std::time::Duration;
/// use leveret::Rate;
///
/// let steady = Rate::per_second(100);                    // one every 10 ms
/// let bursty = Rate::per_minute(60).burst(10);           // ten at once after a pause, one a second in the long run
/// let slow = Rate::new(5, Duration::from_secs(3600));
/// # let _ = (steady, bursty, slow);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    burst: u32,
}

impl Rate {
    /// Creates a rate of `starts` in `time`; 0 counts as 1.
    #[must_use]
    pub fn new(starts: u32, time: Duration) -> Self {
        Self { interval: (time / starts.max(1)).max(Duration::from_nanos(1)), burst: 1 }
    }

    /// Creates a rate of `starts` a second.
    #[must_use]
    pub fn per_second(starts: u32) -> Self {
        Self::new(starts, Duration::from_secs(1))
    }

    /// Creates a rate of `starts` a minute.
    #[must_use]
    pub fn per_minute(starts: u32) -> Self {
        Self::new(starts, Duration::from_secs(60))
    }

    /// Sets how many jobs may start at once after a pause; 1 by default.
    #[must_use]
    pub fn burst(mut self, starts: u32) -> Self {
        self.burst = starts.max(1);
        self
    }

    /// Returns the average time between two starts.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns how far a start may be ahead of an even spread.
    #[must_use]
    pub fn tolerance(&self) -> Duration {
        self.interval.saturating_mul(self.burst - 1)
    }
}
