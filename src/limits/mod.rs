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

use crate::error::Error;

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
    starts: u32,
    time: Duration,
    interval: Duration,
    burst: u32,
}

impl Rate {
    /// Creates a rate of `starts` in `time`: at least 1, and at most 1 a nanosecond. A worker does not start with another rate.
    #[must_use]
    pub fn new(starts: u32, time: Duration) -> Self {
        // Of a rate that is refused, the interval only keeps the arithmetic defined.
        let interval = time.checked_div(starts).unwrap_or(time).max(Duration::from_nanos(1));
        Self { starts, time, interval, burst: 1 }
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

    /// Sets how many jobs may start at once after a pause: at least 1; 1 by default.
    #[must_use]
    pub fn burst(mut self, starts: u32) -> Self {
        self.burst = starts;
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
        self.interval.saturating_mul(self.burst.saturating_sub(1))
    }

    /// Refuses a rate that no clock can keep. `job` names the job whose handler has it.
    pub(crate) fn check(&self, job: &str) -> Result<(), Error> {
        let of = format!("the rate of job {job:?}");
        if self.starts == 0 || self.time.as_nanos() < self.starts.into() {
            let bounds = "at least 1 start, and at most 1 a nanosecond";
            return Err(Error::bounds("Rate::new", &of, (self.starts, self.time), bounds));
        }
        if self.burst == 0 {
            return Err(Error::bounds("Rate::burst", &of, self.burst, "at least 1"));
        }
        Ok(())
    }
}
