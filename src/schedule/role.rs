//! The state of a worker in the election of a leader, and what wakes it up.

use tokio::time::Instant;

use crate::schedule::token::Token;
use crate::{
    job::JobId,
    transport::session::{Delivery, Ended},
};

/// A request to publish now.
pub(super) struct RunRequest {
    pub(super) tag: u64,
    pub(super) id: JobId,
    /// The earliest time of the next attempt.
    pub(super) at: Instant,
}

/// The reason why the worker acts.
pub(super) enum Wakeup {
    Stop,
    Delivered(Box<Delivery>),
    Lost(Ended),
    Act,
}

/// The state of this worker on one session.
pub(super) enum Role {
    /// Another worker leads, or there is no token; then the next published token makes this worker the leader.
    Waiting { seed_at: Instant },
    /// This is the highest token so far; further ones may follow.
    Gathering { token: Token, tag: u64, until: Instant },
    /// This is the token in the queue. Its delivery, once it has arrived, stays unacknowledged while the token counts.
    Leading { token: Token, tag: Option<u64>, act_at: Instant, refresh_at: Instant },
}

impl Role {
    /// Returns the time of the next action.
    pub(super) fn act_at(&self) -> Instant {
        match self {
            Self::Waiting { seed_at } => *seed_at,
            Self::Gathering { until, .. } => *until,
            Self::Leading { act_at, refresh_at, .. } => *act_at.min(refresh_at),
        }
    }
}
