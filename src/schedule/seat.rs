//! Where a worker stands in the election of a leader, and what it meets there.

use tokio::time::Instant;

use crate::schedule::token::Token;
use crate::{
    job::JobId,
    transport::session::{Delivery, Ended},
};

/// A request to publish now.
pub(super) struct Request {
    pub(super) tag: u64,
    pub(super) id: JobId,
    /// When it may be tried.
    pub(super) at: Instant,
}

pub(super) enum Event {
    Stop,
    ReadMessage(Box<Delivery>),
    Lost(Ended),
    Act,
}

/// Where this worker stands, on one session.
pub(super) enum Seat {
    /// Another leads, or there is no token: then the one that is put next makes it lead.
    Waiting { seed_at: Instant },
    /// This is the highest token so far of those that come.
    Gathering { token: Token, tag: u64, until: Instant },
    /// This is the token in the queue; its delivery, once it has come, is not acked as long as it counts.
    Leading { token: Token, tag: Option<u64>, act_at: Instant, refresh_at: Instant },
}

impl Seat {
    /// When it has to do something.
    pub(super) fn act_at(&self) -> Instant {
        match self {
            Self::Waiting { seed_at } => *seed_at,
            Self::Gathering { until, .. } => *until,
            Self::Leading { act_at, refresh_at, .. } => *act_at.min(refresh_at),
        }
    }
}
