//! State that the acceptor and the threads of the clients share.

use std::sync::{Mutex, MutexGuard, OnceLock, atomic::AtomicU64};

use super::{delivery::Feed, state::StubState, wire::lock};

/// A forbidden action of a client. The stub ends its connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientFault {
    /// An ack, nack or reject of a delivery tag that is not open on its channel.
    #[error("a client settled the delivery tag {tag}, which is unknown or already settled")]
    UnknownTag {
        /// The tag that the client sent.
        tag: u64,
    },
    /// A job was rejected without requeue. A real broker would dead-letter it.
    #[error("job {job} was rejected, and the stub keeps no dead letters")]
    Rejected {
        /// The job's number.
        job: u64,
    },
    /// A client used a command that the stub does not support.
    #[error("the stub does not support {what}")]
    Unsupported {
        /// The command or the frame.
        what: String,
    },
}

#[derive(Debug)]
pub(super) struct StubShared {
    pub(super) feed: Feed,
    pub(super) acked: AtomicU64,
    /// The first fault.
    pub(super) fault: OnceLock<ClientFault>,
    state: Mutex<StubState>,
}

impl StubShared {
    pub(super) fn new(feed: Feed, state: StubState) -> Self {
        Self { feed, acked: AtomicU64::new(0), fault: OnceLock::new(), state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, StubState> {
        lock(&self.state)
    }

    /// Writes pending frames, and deliveries to every consumer with free prefetch.
    pub(super) fn deliver(&self) {
        loop {
            let wires = self.state().fill();
            if wires.is_empty() {
                return;
            }
            wires.iter().for_each(|wire| wire.flush());
        }
    }
}
