//! Not too fast.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What was missed is made up for, but no more than this: so that no burst follows a pause.
const BURST: Duration = Duration::from_millis(100);

/// Lets so many pass in a second.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Option<Duration>,
    next: Instant,
}

impl Pace {
    /// Without a rate, or with one that is not above zero, all pass at once.
    pub(super) fn new(rate: Option<f64>) -> Self {
        let gap = rate.filter(|rate| *rate > 0.0).and_then(|rate| Duration::try_from_secs_f64(1.0 / rate).ok());
        Self { gap, next: Instant::now() }
    }

    /// Waits for the next turn.
    pub(super) async fn turn(&mut self) {
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
        let mut pace = Pace::new(Some(100.0));
        let start = Instant::now();
        for _ in 0..101 {
            pace.turn().await;
        }
        assert_eq!(start.elapsed().as_millis(), 1_000);
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..111 {
            pace.turn().await;
        }
        assert_eq!(start.elapsed().as_millis(), 1_000, "ten were made up for");
    }
}
