//! Which delivery tags of a channel are done with, and which ack frames say so in the fewest words.
//!
//! The contiguous run of finished tags goes out as one `multiple` ack; finished tags behind one that still runs go out
//! singly, so that a slow job neither holds the others' acks back nor has them repeated after a crash. Acks must leave
//! in the order they are made: a `multiple` for a tag that is acked already closes the channel.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// In hand.
    Open,
    /// Done with, the ack not yet sent.
    Finished,
    /// Settled on the wire.
    Settled,
}

/// One ack frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    /// Acks every open tag up to this one.
    pub(super) multiple: bool,
}

/// The tags of one channel, from the oldest that is not settled.
#[derive(Debug)]
pub(super) struct Acks {
    /// The tag of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Finished tags that wait for a flush.
    waiting: u64,
}

impl Acks {
    pub(super) fn new() -> Self {
        Self { first: 1, slots: VecDeque::new(), waiting: 0 }
    }

    /// Notes a delivery. A channel counts its tags from 1 without a gap.
    pub(super) fn delivered(&mut self, tag: u64) {
        while self.first + (self.slots.len() as u64) < tag {
            self.slots.push_back(Slot::Settled);
        }
        self.slots.push_back(Slot::Open);
    }

    /// Notes that a job is done with; returns how many acks wait for a flush.
    pub(super) fn finish(&mut self, tag: u64) -> u64 {
        if self.replace(tag, Slot::Finished) {
            self.waiting += 1;
        }
        self.waiting
    }

    /// Notes that a tag is settled otherwise; tells whether it was open.
    pub(super) fn settle(&mut self, tag: u64) -> bool {
        self.replace(tag, Slot::Settled)
    }

    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    fn replace(&mut self, tag: u64, with: Slot) -> bool {
        let slot = tag.checked_sub(self.first).and_then(|index| self.slots.get_mut(usize::try_from(index).ok()?));
        match slot {
            Some(slot @ Slot::Open) => {
                *slot = with;
                true
            }
            _ => false,
        }
    }

    /// The frames that ack everything that waits, in the order in which they must leave.
    pub(super) fn flush(&mut self, mut send: impl FnMut(Ack)) {
        if self.waiting == 0 {
            return;
        }
        let mut run = None;
        while let Some(slot) = self.slots.front().filter(|slot| **slot != Slot::Open) {
            if *slot == Slot::Finished {
                run = Some(self.first);
                self.waiting -= 1;
            }
            self.slots.pop_front();
            self.first += 1;
        }
        if let Some(tag) = run {
            send(Ack { tag, multiple: true });
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if self.waiting == 0 {
                break;
            }
            if *slot == Slot::Finished {
                *slot = Slot::Settled;
                self.waiting -= 1;
                send(Ack { tag: self.first + index as u64, multiple: false });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn flushed(acks: &mut Acks) -> Vec<(u64, bool)> {
        let mut frames = Vec::new();
        acks.flush(|ack| frames.push((ack.tag, ack.multiple)));
        frames
    }

    #[test]
    fn a_contiguous_run_is_one_frame_and_the_rest_single_ones() {
        let mut acks = Acks::new();
        (1..=6).for_each(|tag| acks.delivered(tag));
        for tag in [2, 1, 4, 6] {
            acks.finish(tag);
        }
        assert_eq!(flushed(&mut acks), [(2, true), (4, false), (6, false)]);
        acks.finish(3);
        assert_eq!(flushed(&mut acks), [(3, true)]);
        acks.finish(5);
        assert_eq!(flushed(&mut acks), [(5, true)]);
        assert_eq!(flushed(&mut acks), []);
    }

    #[test]
    fn a_tag_is_finished_once() {
        let mut acks = Acks::new();
        acks.delivered(1);
        assert_eq!((acks.finish(1), acks.finish(1), acks.finish(99)), (1, 1, 1));
        assert!(!acks.settle(1));
    }

    proptest! {
        /// Plays the broker: every ack must be for a tag that is open, and in the end every tag is acked once.
        #[test]
        fn the_broker_sees_every_tag_once_and_no_unknown_one(
            order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(),
            flushes in proptest::collection::vec(any::<bool>(), 60),
            rejects in proptest::collection::vec(proptest::bool::weighted(0.1), 60),
        ) {
            let mut acks = Acks::new();
            let mut open: BTreeSet<u64> = (1..=60).collect();
            (1..=60).for_each(|tag| acks.delivered(tag));
            for (step, tag) in order.into_iter().enumerate() {
                if rejects[step] {
                    prop_assert!(acks.settle(tag) && open.remove(&tag));
                } else {
                    acks.finish(tag);
                }
                if flushes[step] || step == 59 {
                    let mut frames = Vec::new();
                    acks.flush(|ack| frames.push(ack));
                    for Ack { tag, multiple } in frames {
                        prop_assert!(open.contains(&tag), "ack of {} which is not open", tag);
                        if multiple { open.retain(|other| *other > tag) } else { open.remove(&tag); }
                    }
                }
            }
            prop_assert!(open.is_empty(), "never acked: {:?}", open);
        }
    }
}
