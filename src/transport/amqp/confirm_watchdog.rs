//! Detects a publishing connection to a node that no longer works.
//!
//! A node that was separated from its cluster keeps its connections and their heartbeats, but confirms nothing. It is
//! indistinguishable from a cluster that elects its leaders, or from a full queue. So the connection is replaced by one
//! to the next address now and then, and ever more rarely while that changes nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Interval of checks of a connection.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest pause between two attempts of a nacked publish.
const TRIED_AGAIN: Duration = Duration::from_secs(10);
const LONGEST_LIMIT: Duration = Duration::from_secs(600);
/// Time for which a nacked channel stays in use. RabbitMQ 3.10 looks up the leader of a queue when a channel first
/// publishes to it. If that node has just stopped, every publish of this channel to this queue is nacked for as long as
/// the node is unreachable. A new channel finds the new leader.
const NACKED_CHANNEL: Duration = Duration::from_secs(2);
/// Time for the publishes in flight before such a channel is replaced. If they take longer, the channel is kept for
/// now, because its close would make them uncertain.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// Decides when a nacked channel is replaced.
pub(super) struct Replacement {
    from: Instant,
    /// The time until which publishes in flight may still be answered.
    until: Option<Instant>,
}

impl Replacement {
    pub(super) fn new() -> Self {
        Self { from: Instant::now() + NACKED_CHANNEL, until: None }
    }

    /// Records that the broker answered on the channel.
    pub(super) fn answered(&mut self, nacked: bool) {
        if nacked && self.until.is_none() && Instant::now() >= self.from {
            self.until = Some(Instant::now() + ANSWERED_WITHIN);
        }
    }

    /// Returns whether the channel must not be used for more publishes.
    pub(super) fn is_due(&self) -> bool {
        self.until.is_some()
    }

    /// Keeps the channel for now if the publishes in flight take too long.
    pub(super) fn check(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until < now) {
            (self.from, self.until) = (now + NACKED_CHANNEL, None);
        }
    }
}

/// The unconfirmed publishes of one task, over all its connections.
pub(super) struct ConfirmWatchdog {
    /// The start of the time without confirms, and the last publish or nack in it.
    unconfirmed: Option<(Instant, Instant)>,
    /// The longest time without confirms.
    limit: Duration,
    publish_timeout: Duration,
}

impl ConfirmWatchdog {
    /// Creates a watchdog whose first limit is the publish timeout. After that time no caller waits, so a lost
    /// connection makes no more publishes uncertain.
    pub(super) fn new(publish_timeout: Duration) -> Self {
        Self { unconfirmed: None, limit: publish_timeout, publish_timeout }
    }

    /// Records an answer of the broker, and whether it confirmed a publish.
    pub(super) fn answered(&mut self, confirmed: bool) {
        if confirmed {
            (self.unconfirmed, self.limit) = (None, self.publish_timeout);
        } else {
            self.note_unconfirmed();
        }
    }

    /// Records that a publish was nacked, or waits for its confirm.
    fn note_unconfirmed(&mut self) {
        let now = Instant::now();
        self.unconfirmed = Some((self.unconfirmed.map_or(now, |(since, _)| since), now));
    }

    /// Records the loss of the connection; the next one starts anew.
    pub(super) fn lost(&mut self) {
        self.unconfirmed = None;
    }

    /// Returns whether to replace the connection now; `waiting` means that publishes wait for their confirm.
    pub(super) fn check(&mut self, waiting: bool) -> bool {
        if waiting {
            self.note_unconfirmed();
        }
        self.has_expired()
    }

    /// Returns whether to replace the connection now.
    fn has_expired(&mut self) -> bool {
        self.unconfirmed = self.unconfirmed.filter(|(_, last)| last.elapsed() <= TRIED_AGAIN);
        let has_expired = self.unconfirmed.is_some_and(|(since, _)| since.elapsed() >= self.limit);
        if has_expired {
            self.unconfirmed = None;
            self.limit = (self.limit * 2).min(LONGEST_LIMIT.max(self.publish_timeout));
        }
        has_expired
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns after how many seconds without a confirm the connection is replaced.
    async fn replaced_after(watchdog: &mut ConfirmWatchdog) -> u32 {
        let mut seconds = 0;
        loop {
            watchdog.note_unconfirmed();
            if watchdog.has_expired() {
                return seconds;
            }
            advance(SECOND).await;
            seconds += 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_confirms_is_replaced_and_the_next_ones_ever_more_rarely() {
        let mut watchdog = ConfirmWatchdog::new(30 * SECOND);
        let mut replaced = Vec::new();
        for _ in 0..7 {
            replaced.push(replaced_after(&mut watchdog).await);
        }
        assert_eq!(replaced, [30, 60, 120, 240, 480, 600, 600]);
        watchdog.answered(true);
        assert_eq!(replaced_after(&mut watchdog).await, 30);
    }

    #[tokio::test(start_paused = true)]
    async fn one_nack_and_slow_confirms_do_not_replace_the_connection() {
        let mut watchdog = ConfirmWatchdog::new(30 * SECOND);
        watchdog.note_unconfirmed();
        advance(60 * SECOND).await;
        assert!(!watchdog.has_expired(), "nothing was published since");
        for _ in 0..10 {
            for _ in 0..29 {
                watchdog.note_unconfirmed();
                assert!(!watchdog.has_expired());
                advance(SECOND).await;
            }
            watchdog.answered(true);
        }
    }
}
