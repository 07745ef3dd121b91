//! The time of the last received byte.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The time of the last received byte.
#[derive(Debug)]
pub(crate) struct Liveness {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Liveness {
    #[inline]
    pub(crate) fn received(&self) {
        self.last.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// The time since the last received byte.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms().saturating_sub(self.last.load(Ordering::Relaxed)))
    }

    #[inline]
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
