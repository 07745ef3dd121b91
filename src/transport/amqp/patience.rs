//! The timeouts of handshakes, and the delays between connection attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a handshake. It is short, so that a handshake with a lost answer is soon repeated. It grows after
/// each timeout, for a slow broker.
pub(super) struct HandshakeTimeout(pub(super) Duration);

impl Default for HandshakeTimeout {
    fn default() -> Self {
        Self(FIRST_TIMEOUT)
    }
}

impl HandshakeTimeout {
    pub(super) fn grow(&mut self) {
        self.0 = (self.0 * 2).min(LONGEST_TIMEOUT);
    }
}

/// Returns delays of up to one second with their jitter, indefinitely.
pub(super) fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_millis(500))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Returns delays from one second up to thirty with their jitter, indefinitely. Brokers, and the directories behind
/// them, treat a login that is repeated often as an attack, and a wrong login is rarely fixed within a second.
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
    fn a_refused_login_is_retried_rarely_but_within_thirty_seconds() {
        let delays: Vec<_> = login_backoff().take(12).collect();
        let first_four: Duration = delays[..4].iter().sum();
        assert!(first_four >= Duration::from_secs(15), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(30)), "{delays:?}");
        assert!(backoff().take(100).all(|delay| delay <= Duration::from_secs(1)));
    }
}
