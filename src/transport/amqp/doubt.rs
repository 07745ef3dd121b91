//! Whether the publishing connection leads to a node that still works.
//!
//! A node that its cluster has lost keeps its connections and their heartbeats, and confirms nothing. Nothing else tells
//! it from a cluster that elects its leaders, or from a queue that is full: so the connection is given up for one to the
//! next address now and then, and ever more rarely while that changes nothing.

use std::time::Duration;

use tokio::time::Instant;

/// How often a connection is looked at.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Nacks are tried again sooner than this.
const TRIED_AGAIN: Duration = Duration::from_secs(10);
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// How long a channel that was nacked is used on. RabbitMQ 3.10 learns where a queue's leader is when a channel first
/// publishes to it. If that is a node that has just gone, the channel has every publish to this queue nacked for as long
/// as the node is away; a new channel finds the new leader.
const NACKED_CHANNEL: Duration = Duration::from_secs(2);
/// How long the publishes that are in flight may take before such a channel is replaced. Where they take longer it is kept
/// for now: with it they would become uncertain.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// When a channel that was nacked is replaced by another.
pub(super) struct Replacement {
    from: Instant,
    /// Until when what is in flight may still be answered before.
    until: Option<Instant>,
}

impl Replacement {
    pub(super) fn new() -> Self {
        Self { from: Instant::now() + NACKED_CHANNEL, until: None }
    }

    /// The broker answered on the channel.
    pub(super) fn answered(&mut self, nacked: bool) {
        if nacked && self.until.is_none() && Instant::now() >= self.from {
            self.until = Some(Instant::now() + ANSWERED_WITHIN);
        }
    }

    /// Whether nothing more is to be sent on the channel.
    pub(super) fn is_due(&self) -> bool {
        self.until.is_some()
    }

    /// Keeps the channel for now if what is in flight takes too long.
    pub(super) fn check(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until < now) {
            (self.from, self.until) = (now + NACKED_CHANNEL, None);
        }
    }
}

/// The publishes of one task, over all its connections.
pub(super) struct Doubt {
    /// Since when publishes were sent and none was confirmed, and when one was last sent or nacked.
    fruitless: Option<(Instant, Instant)>,
    /// How long that may last.
    patience: Duration,
    publish_timeout: Duration,
}

impl Doubt {
    /// A caller waits for its confirm for the publish timeout: after that a connection that is lost makes nothing more
    /// uncertain.
    pub(super) fn new(publish_timeout: Duration) -> Self {
        Self { fruitless: None, patience: publish_timeout, publish_timeout }
    }

    /// The broker answered, and confirmed something or nothing.
    pub(super) fn answered(&mut self, confirmed: bool) {
        if confirmed {
            (self.fruitless, self.patience) = (None, self.publish_timeout);
        } else {
            self.in_vain();
        }
    }

    /// A publish was nacked, or waits for its confirm.
    fn in_vain(&mut self) {
        let now = Instant::now();
        self.fruitless = Some((self.fruitless.map_or(now, |(since, _)| since), now));
    }

    /// The connection was lost; the next one has to show what it is worth.
    pub(super) fn lost(&mut self) {
        self.fruitless = None;
    }

    /// The same, where publishes may be waiting for their confirm.
    pub(super) fn is_over_with(&mut self, waiting: bool) -> bool {
        if waiting {
            self.in_vain();
        }
        self.is_over()
    }

    /// Whether the connection is to be given up now.
    fn is_over(&mut self) -> bool {
        self.fruitless = self.fruitless.filter(|(_, last)| last.elapsed() <= TRIED_AGAIN);
        let is_over = self.fruitless.is_some_and(|(since, _)| since.elapsed() >= self.patience);
        if is_over {
            self.fruitless = None;
            self.patience = (self.patience * 2).min(LONGEST_PATIENCE.max(self.publish_timeout));
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// After how many seconds in which nothing is confirmed the connection is given up.
    async fn given_up_after(doubt: &mut Doubt) -> u32 {
        let mut seconds = 0;
        loop {
            doubt.in_vain();
            if doubt.is_over() {
                return seconds;
            }
            advance(SECOND).await;
            seconds += 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_confirms_nothing_is_given_up_and_the_next_ones_ever_more_rarely() {
        let mut doubt = Doubt::new(30 * SECOND);
        let mut given_up = Vec::new();
        for _ in 0..7 {
            given_up.push(given_up_after(&mut doubt).await);
        }
        assert_eq!(given_up, [30, 60, 120, 240, 480, 600, 600]);
        doubt.answered(true);
        assert_eq!(given_up_after(&mut doubt).await, 30);
    }

    #[tokio::test(start_paused = true)]
    async fn one_nack_is_no_reason_and_neither_are_confirms_that_are_slow() {
        let mut doubt = Doubt::new(30 * SECOND);
        doubt.in_vain();
        advance(60 * SECOND).await;
        assert!(!doubt.is_over(), "nothing was published since");
        for _ in 0..10 {
            for _ in 0..29 {
                doubt.in_vain();
                assert!(!doubt.is_over());
                advance(SECOND).await;
            }
            doubt.answered(true);
        }
    }
}
