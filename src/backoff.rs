//! The delays between the attempts of whatever is retried, and the randomness that keeps failures apart.
//!
//! [`RetryPolicy`](crate::RetryPolicy) computes the delays of jobs. Fixed delays need no state, and stay in their loops.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::sleep;

/// Delays that grow up to a longest one, without an end.
#[derive(Debug)]
pub struct Backoff {
    policy: ExponentialBuilder,
    delays: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// Creates delays that double from `first` to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        let policy = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest).without_max_times();
        Self { policy, delays: policy.build(), longest }
    }

    /// Multiplies the delays by `factor` instead of two.
    #[must_use]
    pub fn factor(self, factor: f32) -> Self {
        self.with(|policy| policy.with_factor(factor))
    }

    /// Adds a random part of up to its own length to each delay, so also to the longest.
    #[must_use]
    pub fn jitter(self) -> Self {
        self.with(ExponentialBuilder::with_jitter)
    }

    fn with(self, change: impl FnOnce(ExponentialBuilder) -> ExponentialBuilder) -> Self {
        let policy = change(self.policy);
        Self { policy, delays: policy.build(), ..self }
    }

    /// Returns the next delay.
    pub fn delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.longest)
    }

    /// Sleeps for the next delay. When dropped, the next sleep has the delay after it.
    pub async fn sleep(&mut self) {
        sleep(self.delay()).await;
    }

    /// Starts again with the first delay.
    pub fn reset(&mut self) {
        self.delays = self.policy.build();
    }
}

/// Returns two independent numbers, uniform in 0..1, for [`RetryPolicy::delay`].
pub(crate) fn draws() -> (f64, f64) {
    (fastrand::f64(), fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seconds(backoff: &mut Backoff, count: usize) -> Vec<u64> {
        (0..count).map(|_| backoff.delay().as_secs()).collect()
    }

    #[test]
    fn delays_grow_to_the_longest_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(SECOND, SECOND * 5);
        assert_eq!(seconds(&mut backoff, 5), [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(seconds(&mut backoff, 2), [1, 2]);
        assert_eq!(seconds(&mut Backoff::new(SECOND, SECOND * 60).factor(4.0), 5), [1, 4, 16, 60, 60]);
    }

    #[test]
    fn jitter_differs_between_processes_and_at_most_doubles_a_delay() {
        // backon seeds the jitter of all processes alike, unless its feature `std` is on.
        let delays = |mut backoff: Backoff| -> Vec<_> { (0..8).map(|_| backoff.delay()).collect() };
        let jittered = || delays(Backoff::new(SECOND, SECOND).jitter());
        let (one, other) = (jittered(), jittered());
        assert_ne!(one, other);
        assert!(one.iter().chain(&other).all(|delay| (SECOND..=SECOND * 2).contains(delay)), "{one:?} {other:?}");
    }
}
