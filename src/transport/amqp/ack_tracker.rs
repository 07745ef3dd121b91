//! Tracks which acks of a channel have reached their queue. The others may be lost with the channel, and then their
//! jobs are redelivered.
//!
//! AMQP does not confirm acks. But a broker handles the frames of a channel in order, so its answer to a command proves
//! that it has handled the acks before the command. `channel.flow` with `active = true` has no other effect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{Channel, options::ChannelFlowOptions};
use tokio::{sync::Notify, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::transport::amqp::consume::ACKS_ARRIVE;

/// The shortest time between two commands, however many acks are sent.
const INTERVAL: Duration = Duration::from_secs(1);
/// Number of acks that RabbitMQ passes to their queue at once, whatever its load: its soft limit is 32.
const AT_ONCE: u64 = 16;

/// Asks the broker while acks are unproven; ends when it is dropped.
pub(super) struct AckTracker {
    acks: Arc<Acks>,
    _asking: AbortOnDropHandle<()>,
}

/// Numbers of jobs, in the order of their acks on this channel.
#[derive(Default)]
struct Acks {
    /// The acks up to this one are written.
    written: AtomicU64,
    /// The acks up to this one have reached their queue.
    handled: AtomicU64,
    more: Notify,
}

impl AckTracker {
    pub(super) fn new(channel: Channel) -> Self {
        let acks = Arc::<Acks>::default();
        let asking = tokio::spawn(ask(channel, Arc::clone(&acks)));
        Self { acks, _asking: AbortOnDropHandle::new(asking) }
    }

    /// Records that all acks up to `number` are written.
    pub(super) fn written(&self, number: u64) {
        self.acks.written.store(number, Ordering::Release);
        self.acks.more.notify_one();
    }

    /// Returns the number up to which acks cannot be lost any more.
    pub(super) fn handled(&self) -> u64 {
        self.acks.handled.load(Ordering::Acquire)
    }
}

async fn ask(channel: Channel, acks: Arc<Acks>) {
    loop {
        acks.more.notified().await;
        let written = acks.written.load(Ordering::Acquire);
        if channel.channel_flow(ChannelFlowOptions { active: true }).await.is_err() {
            return;
        }
        if written - acks.handled.load(Ordering::Acquire) > AT_ONCE {
            sleep(ACKS_ARRIVE).await;
        }
        acks.handled.store(written, Ordering::Release);
        sleep(INTERVAL).await;
    }
}
