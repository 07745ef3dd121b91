//! The publishes on one channel that the broker has not answered yet.

use futures_util::stream::FuturesUnordered;
use lapin::Channel;

use crate::transport::amqp::confirm::{Resolved, Returned, Verdict, attribute, drain};

/// Memory for bodies in flight, whatever the window; one more publish may be sent below it.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;

pub(super) struct InFlight<F> {
    pub(super) publishes: FuturesUnordered<F>,
    window: usize,
    /// The total size of the bodies.
    bytes: usize,
    unclaimed: Vec<Returned>,
}

/// The broker or the network ended the channel, for this reason.
pub(super) struct ChannelLost(pub(super) String);

/// The kinds of answers received.
#[derive(Default)]
pub(super) struct Answered {
    /// A publish was handled, even if it was returned.
    pub(super) confirmed: bool,
    pub(super) nacked: bool,
}

impl<F: Future<Output = Resolved>> InFlight<F> {
    pub(super) fn new(window: usize) -> Self {
        Self { publishes: FuturesUnordered::new(), window, bytes: 0, unclaimed: Vec::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.publishes.len() < self.window && self.bytes < WINDOW_BYTES
    }

    /// Adds a publish with a body of `size` bytes.
    pub(super) fn push(&mut self, size: usize, publish: F) {
        self.bytes += size;
        self.publishes.push(publish);
    }

    /// Answers `first` and every other publish that the broker has answered by now.
    pub(super) fn answer(&mut self, channel: &Channel, first: Resolved) -> Result<Answered, ChannelLost> {
        let alone = self.publishes.is_empty();
        let mut answered = Answered::default();
        let (mut lost, mut is_lost) = (None, false);
        let mut held = vec![first];
        while !held.is_empty() {
            let (now, later) = attribute(held, drain(channel, &mut self.publishes), &mut self.unclaimed);
            for resolved in now {
                self.bytes -= resolved.size;
                match &resolved.verdict {
                    Verdict::Confirmed | Verdict::Returned(_) => answered.confirmed = true,
                    Verdict::Nacked => answered.nacked = true,
                    Verdict::Lost(text) => {
                        lost = lost.or_else(|| text.clone());
                        is_lost = true;
                    }
                }
                resolved.answer(alone);
            }
            held = later;
        }
        if is_lost {
            return Err(ChannelLost(lost.unwrap_or_else(|| "the connection was lost".to_owned())));
        }
        Ok(answered)
    }
}
