//! How long a broker is waited for, and how soon it is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

const FIRST_PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(10);

/// How long a handshake may take: short, so that one whose answer was lost on the way is soon begun anew; and longer
/// after each that took too long, for a broker that is merely slow.
pub(super) struct HandshakeTimeout(pub(super) Duration);

impl Default for HandshakeTimeout {
    fn default() -> Self {
        Self(FIRST_PATIENCE)
    }
}

impl HandshakeTimeout {
    pub(super) fn grow(&mut self) {
        self.0 = (self.0 * 2).min(LONGEST_PATIENCE);
    }
}

/// Up to one second with its jitter, for ever.
pub(super) fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_millis(500))
        .with_jitter()
        .without_max_times()
        .build()
}

/// From one second up to thirty with its jitter, for ever. Brokers, and the directories behind them, take a login that is
/// repeated many times for an attack, and a wrong one is rarely put right within a second.
pub(super) fn login_backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(Duration::from_secs(15))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_tried_seldom_and_again_within_thirty_seconds() {
        let delays: Vec<_> = login_backoff().take(12).collect();
        let first_four: Duration = delays[..4].iter().sum();
        assert!(first_four >= Duration::from_secs(15), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(30)), "{delays:?}");
        assert!(backoff().take(100).all(|delay| delay <= Duration::from_secs(1)));
    }
}
