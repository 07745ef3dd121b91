//! The rate of a replay.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A late letter is caught up with, but by no more than this: no burst follows a pause.
const BURST: Duration = Duration::from_millis(100);

/// The gap of a stored replay whose rate is below the accepted ones.
const LONGEST_GAP: Duration = Duration::from_secs(24 * 60 * 60);

/// Limits letters per second.
#[derive(Debug)]
pub(super) struct Throttle {
    gap: Option<Duration>,
    next: Instant,
}

impl Throttle {
    /// Without a rate there is no limit. The rate is checked ([`ReplayOptions::check`](super::replay::ReplayOptions::check)).
    pub(super) fn new(rate: Option<f64>) -> Self {
        let gap = rate.map(|rate| Duration::try_from_secs_f64(1.0 / rate).unwrap_or(LONGEST_GAP).min(LONGEST_GAP));
        Self { gap, next: Instant::now() }
    }

    /// Waits until the next letter may be published.
    pub(super) async fn wait(&mut self) {
        let Some(gap) = self.gap else { return };
        let earliest = Instant::now().checked_sub(BURST).unwrap_or(self.next);
        let turn = self.next.max(earliest);
        self.next = turn + gap;
        if turn > Instant::now() {
            sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_also_after_a_pause() {
        let mut throttle = Throttle::new(Some(100.0));
        let start = Instant::now();
        for _ in 0..101 {
            throttle.wait().await;
        }
        assert_eq!(start.elapsed().as_millis(), 1_000);
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..111 {
            throttle.wait().await;
        }
        assert_eq!(start.elapsed().as_millis(), 1_000, "ten were caught up with");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_is_next_to_nothing_is_a_day_long_and_no_panic() {
        for rate in [1e-19, 1e-300, f64::MIN_POSITIVE] {
            let mut throttle = Throttle::new(Some(rate));
            let start = Instant::now();
            throttle.wait().await;
            throttle.wait().await;
            assert_eq!(start.elapsed(), LONGEST_GAP, "{rate}");
        }
    }
}
