//! The clock of schedules: that of the broker handle, or a faster one in tests.

use std::time::Duration;

use crate::broker::Broker;

/// The speed of time, and its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockSpeed {
    from: u64,
    times: u32,
}

impl Default for ClockSpeed {
    fn default() -> Self {
        Self { from: 0, times: 1 }
    }
}

impl ClockSpeed {
    #[cfg(feature = "internals")]
    pub(super) fn hastened(from: u64, times: u32) -> Self {
        Self { from, times: times.max(1) }
    }

    /// Returns the current time in milliseconds since the epoch.
    pub(super) fn now_ms(self, broker: &Broker) -> u64 {
        let now = broker.now_ms();
        now.saturating_add(now.saturating_sub(self.from).saturating_mul(u64::from(self.times) - 1))
    }

    /// Returns the real duration from one time to another.
    pub(super) fn between(self, from: u64, until: u64) -> Duration {
        Duration::from_millis(until.saturating_sub(from)) / self.times
    }
}
