//! What the acceptor and the threads of the clients share.

use std::sync::{Mutex, MutexGuard, OnceLock, atomic::AtomicU64};

use super::{delivery::Feed, state::State, wire::lock};

/// What a client must not do; its connection is ended over it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// An ack, nack or reject of a delivery tag that is not open on its channel.
    #[error("delivery tag {tag} is settled, and it is unknown or settled already")]
    UnknownTag {
        /// As the client sent it.
        tag: u64,
    },
    /// A job was rejected for good, which a real broker would dead-letter.
    #[error("job {job} was rejected, and the stub keeps no dead letters")]
    Rejected {
        /// The job's number.
        job: u64,
    },
    /// A client asked for what the stub does not know.
    #[error("the stub does not know {what}")]
    Unsupported {
        /// The command or the frame.
        what: String,
    },
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) feed: Feed,
    pub(super) acked: AtomicU64,
    /// The first one.
    pub(super) fault: OnceLock<Fault>,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(feed: Feed, state: State) -> Self {
        Self { feed, acked: AtomicU64::new(0), fault: OnceLock::new(), state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Writes what is to be written, and deliveries to whoever has room for them.
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
