//! The current time, on a clock that may differ from the broker's.

use std::sync::atomic::{AtomicI64, Ordering};

/// Largest difference that counts as none. The broker's clock reports whole seconds.
const TOLERATED_MS: i64 = 2_000;

/// This process's clock, and its difference from the broker's clock.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// The broker's time minus this process's, in milliseconds; 0 while it is unknown or small.
    skew_ms: AtomicI64,
}

/// One moment on both clocks, in milliseconds since the epoch.
///
/// If the clocks differ, one of them is wrong, and it is unknown which. A job is expired only if it has expired by the
/// earlier time. It is early only if it is early by the later time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// By this process's clock.
    pub(crate) here: u64,
    pub(crate) earliest: u64,
    pub(crate) latest: u64,
}

impl Now {
    /// Returns a moment on which both clocks agree.
    pub(crate) fn at(ms: u64) -> Self {
        Self { here: ms, earliest: ms, latest: ms }
    }
}

impl Clock {
    /// Returns the time on both clocks when this process's clock shows `now_ms`.
    pub(crate) fn at(&self, now_ms: u64) -> Now {
        let skew = self.skew_ms.load(Ordering::Relaxed);
        if skew == 0 {
            return Now::at(now_ms);
        }
        let other = now_ms.saturating_add_signed(skew);
        Now { here: now_ms, earliest: now_ms.min(other), latest: now_ms.max(other) }
    }

    /// Returns whether the clocks agree, as far as is known.
    pub(crate) fn agrees(&self) -> bool {
        self.skew_ms.load(Ordering::Relaxed) == 0
    }

    /// Records the broker's time in whole seconds, read between two moments of this clock.
    pub(crate) fn compare(&self, before_ms: u64, broker_seconds: u64, after_ms: u64) {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let broker = signed(broker_seconds.saturating_mul(1_000));
        // The broker's second had begun when it was read, and had not ended.
        let (least, most) = (broker - signed(after_ms), broker + 999 - signed(before_ms));
        let skew = if least > 0 { least } else { most.min(0) };
        let skew = if skew.abs() <= TOLERATED_MS { 0 } else { skew };
        let before = self.skew_ms.swap(skew, Ordering::Relaxed);
        if skew != 0 && before == 0 {
            tracing::error!(broker_ahead_ms = skew, "this machine's clock differs from the broker's: synchronise both");
        } else if skew == 0 && before != 0 {
            tracing::info!("this machine's clock agrees with the broker's again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_500;

    /// Returns the time after the broker's clock showed `broker_seconds` between `NOW` and ten milliseconds later.
    fn compared(broker_seconds: u64) -> Now {
        let clock = Clock::default();
        clock.compare(NOW, broker_seconds, NOW + 10);
        clock.at(NOW)
    }

    #[test]
    fn clocks_that_differ_by_seconds_give_the_earlier_and_the_later_time() {
        for agreeing in [1_799_999_998, 1_800_000_000, 1_800_000_001, 1_800_000_002] {
            assert_eq!(compared(agreeing), Now::at(NOW), "{agreeing}");
        }
        let behind = compared(1_799_999_400);
        assert_eq!(behind, Now { here: NOW, earliest: 1_799_999_400_999, latest: NOW });
        let ahead = compared(1_800_000_600);
        assert_eq!(ahead, Now { here: NOW, earliest: NOW, latest: 1_800_000_599_990 });
    }

    #[test]
    fn a_clock_that_is_set_right_agrees_again() {
        let clock = Clock::default();
        clock.compare(0, 1_800_000_000, 10);
        assert_eq!(clock.at(0), Now { here: 0, earliest: 0, latest: 1_799_999_999_990 });
        clock.compare(NOW, 1_800_000_000, NOW + 10);
        assert_eq!(clock.at(NOW), Now::at(NOW));
    }
}
