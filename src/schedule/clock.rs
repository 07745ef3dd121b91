//! The time that schedules go by: the broker handle's, or a faster one in tests.

use std::time::Duration;

use crate::broker::Broker;

/// How fast time passes, and since when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    from: u64,
    times: u32,
}

impl Default for Flow {
    fn default() -> Self {
        Self { from: 0, times: 1 }
    }
}

impl Flow {
    #[cfg(feature = "internals")]
    pub(super) fn hastened(from: u64, times: u32) -> Self {
        Self { from, times: times.max(1) }
    }

    /// Milliseconds since the epoch.
    pub(super) fn now_ms(self, broker: &Broker) -> u64 {
        let now = broker.now_ms();
        now.saturating_add(now.saturating_sub(self.from).saturating_mul(u64::from(self.times) - 1))
    }

    /// How long it is from one moment to another.
    pub(super) fn between(self, from: u64, until: u64) -> Duration {
        Duration::from_millis(until.saturating_sub(from)) / self.times
    }
}
