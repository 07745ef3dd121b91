//! Whether the publishing channel and its connection still lead to brokers that work.
//!
//! RabbitMQ 3.10 learns where a queue's leader is when a channel first publishes to it. If that is a node that has just
//! gone, the channel has every publish to this queue nacked for as long as the node is away. A new channel finds the new
//! leader: so one that is nacked is replaced.
//!
//! A node that its cluster has lost keeps its connections and their heartbeats, and confirms nothing. Nothing else tells
//! it from a cluster that elects its leaders, or from a queue that is full: so the connection is given up for one to the
//! next address now and then, and ever more rarely while that changes nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::in_flight::Answered;

/// How often a connection is looked at.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest life of a channel that is replaced for its nacks.
const REPLACED_AFTER: Duration = Duration::from_secs(2);
/// How long the publishes in flight may take before a channel is replaced. Where they take longer it is kept for now: with
/// it they would become uncertain.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// Nacks are tried again sooner than this.
const TRIED_AGAIN: Duration = Duration::from_secs(10);
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

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

    /// Publishes were answered.
    pub(super) fn answered(&mut self, answered: &Answered) {
        if answered.confirmed {
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

    /// Whether the connection is to be given up now; `waits` says that publishes wait for their confirms on it.
    pub(super) fn is_over(&mut self, waits: bool) -> bool {
        if waits {
            self.in_vain();
        }
        self.fruitless = self.fruitless.filter(|(_, last)| last.elapsed() <= TRIED_AGAIN);
        let is_over = self.fruitless.is_some_and(|(since, _)| since.elapsed() >= self.patience);
        if is_over {
            self.fruitless = None;
            self.patience = (self.patience * 2).min(LONGEST_PATIENCE.max(self.publish_timeout));
        }
        is_over
    }
}

/// The nacks of one channel.
pub(super) struct Nacks {
    /// The channel is to be replaced once nothing is in flight on it.
    pub(super) are_over: bool,
    /// When it may be replaced; or until when that may take, once it is to be.
    time: Instant,
}

impl Nacks {
    pub(super) fn new() -> Self {
        Self { are_over: false, time: Instant::now() + REPLACED_AFTER }
    }

    /// Publishes were answered.
    pub(super) fn answered(&mut self, answered: &Answered) {
        if answered.nacked && !self.are_over && Instant::now() >= self.time {
            (self.are_over, self.time) = (true, Instant::now() + ANSWERED_WITHIN);
        }
    }

    /// Keeps the channel if what is in flight takes too long.
    pub(super) fn check(&mut self) {
        if self.are_over && Instant::now() > self.time {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const CONFIRMED: Answered = Answered { confirmed: true, nacked: false };
    const NACKED: Answered = Answered { confirmed: false, nacked: true };

    /// After how many seconds in which nothing is confirmed the connection is given up.
    async fn given_up_after(doubt: &mut Doubt) -> u32 {
        let mut seconds = 0;
        loop {
            if doubt.is_over(true) {
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
        doubt.answered(&CONFIRMED);
        assert_eq!(given_up_after(&mut doubt).await, 30);
    }

    #[tokio::test(start_paused = true)]
    async fn one_nack_is_no_reason_and_neither_are_confirms_that_are_slow() {
        let mut doubt = Doubt::new(30 * SECOND);
        doubt.answered(&NACKED);
        advance(60 * SECOND).await;
        assert!(!doubt.is_over(false), "nothing was published since");
        for _ in 0..10 {
            for _ in 0..29 {
                assert!(!doubt.is_over(true));
                advance(SECOND).await;
            }
            doubt.answered(&CONFIRMED);
        }
    }
}
