//! The settings that all parts of a relay share.

use std::{sync::Arc, time::Duration};

use leveret::Publisher;
use tokio::sync::watch;

use crate::{db::Pool, outbox::metrics::Metrics};

#[derive(Debug)]
pub(super) struct RelaySettings {
    pub(super) pool: Pool,
    pub(super) publisher: Publisher,
    pub(super) payload_limit: usize,
    pub(super) metrics: Option<Metrics>,
    pub(super) waker: Waker,
    pub(super) lease: Duration,
    pub(super) batch: u64,
    pub(super) tries: u32,
    pub(super) backoff: Duration,
    pub(super) keeps_published: bool,
}

impl RelaySettings {
    pub(super) fn new(pool: Pool, publisher: Publisher, payload_limit: usize, metrics: Option<Metrics>) -> Self {
        Self {
            pool,
            publisher,
            payload_limit,
            metrics,
            waker: Waker(Arc::new(watch::Sender::new(()))),
            lease: Duration::from_secs(60),
            batch: 500,
            tries: 10,
            backoff: Duration::from_secs(1),
            keeps_published: false,
        }
    }
}

/// Makes a relay look for jobs at once instead of within a second. See [`Relay::waker`](crate::Relay::waker).
#[derive(Clone, Debug)]
pub struct Waker(Arc<watch::Sender<()>>);

impl Waker {
    /// Wakes the relay. Call it after a commit in the process of the relay. PostgreSQL wakes relays by itself.
    pub fn wake(&self) {
        self.0.send_replace(());
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}
