//! Tracks the finished delivery tags of a channel, and acks them with the fewest frames.
//!
//! A contiguous run of finished tags is acked by one `multiple` ack. Finished tags behind an unfinished one are acked
//! singly, so that a slow job neither delays the other acks nor causes redeliveries after a crash. Acks must be sent in
//! the order in which they are created: a `multiple` for an acked tag closes the channel.

use std::collections::VecDeque;

/// One ack frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) tag: u64,
    /// True if it acks every open tag up to this one.
    pub(crate) multiple: bool,
}

/// The unacknowledged tags of one channel: at most its prefetch.
///
/// Jobs that end in the order of their deliveries, as short ones do, only touch the ends of both queues.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// Unfinished tags, in ascending order.
    open: VecDeque<u64>,
    /// The highest delivered tag; the broker counts tags up from 1.
    highest: u64,
    /// Finished tags without a sent ack, in the order of their end.
    finished: Vec<u64>,
    /// The number of these since the last flush.
    fresh: usize,
}

impl Acks {
    /// Records a delivery. A skipped tag was not delivered to the session: it stays open, so that no ack ever covers
    /// it.
    pub(crate) fn delivered(&mut self, tag: u64) {
        self.open.extend(self.highest + 1..=tag);
        self.highest = tag;
    }

    /// Records a finished job; returns the number of jobs finished since the last flush.
    pub(crate) fn finish(&mut self, tag: u64) -> usize {
        if self.settle(tag) {
            self.finished.push(tag);
            self.fresh += 1;
        }
        self.fresh
    }

    /// Records that a tag is settled without an ack; returns whether it was open.
    pub(crate) fn settle(&mut self, tag: u64) -> bool {
        if self.open.front() == Some(&tag) {
            self.open.pop_front();
            return true;
        }
        let found = self.open.binary_search(&tag);
        found.map(|index| self.open.remove(index)).is_ok()
    }

    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.finished.len()
    }

    /// Sends the frames for the waiting acks, in the required order; those behind an open tag only if `behind` is set.
    pub(crate) fn flush(&mut self, behind: bool, mut send: impl FnMut(Ack)) {
        self.fresh = 0;
        self.finished.sort_unstable();
        let contiguous =
            self.open.front().map_or(self.finished.len(), |first| self.finished.partition_point(|tag| tag < first));
        if let Some(tag) = self.finished.drain(..contiguous).next_back() {
            send(Ack { tag, multiple: true });
        }
        if behind {
            self.finished.drain(..).for_each(|tag| send(Ack { tag, multiple: false }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const STEPS: usize = 120;

    fn flushed(acks: &mut Acks, behind: bool) -> Vec<(u64, bool)> {
        let mut frames = Vec::new();
        acks.flush(behind, |ack| frames.push((ack.tag, ack.multiple)));
        frames
    }

    #[test]
    fn a_contiguous_run_is_one_frame_and_the_rest_single_ones() {
        let mut acks = Acks::default();
        (1..=6).for_each(|tag| acks.delivered(tag));
        for tag in [2, 1, 4, 6] {
            acks.finish(tag);
        }
        assert_eq!(flushed(&mut acks, true), [(2, true), (4, false), (6, false)]);
        acks.finish(3);
        assert_eq!(flushed(&mut acks, true), [(3, true)]);
        acks.finish(5);
        assert_eq!(flushed(&mut acks, true), [(5, true)]);
        assert_eq!(flushed(&mut acks, true), []);
    }

    #[test]
    fn a_tag_behind_an_open_one_is_acked_with_it_if_it_may_wait() {
        let mut acks = Acks::default();
        (1..=4).for_each(|tag| acks.delivered(tag));
        for tag in [1, 3, 4] {
            acks.finish(tag);
        }
        assert_eq!(flushed(&mut acks, false), [(1, true)]);
        assert_eq!((flushed(&mut acks, false), acks.waiting()), (vec![], 2));
        assert_eq!(acks.finish(2), 1);
        assert_eq!(flushed(&mut acks, false), [(4, true)]);
    }

    #[test]
    fn a_skipped_tag_is_not_acked() {
        let mut acks = Acks::default();
        [1, 4].into_iter().for_each(|tag| acks.delivered(tag));
        assert_eq!((acks.finish(1), acks.finish(4)), (1, 2));
        assert_eq!(flushed(&mut acks, true), [(1, true), (4, false)]);
    }

    #[test]
    fn a_tag_is_finished_once() {
        let mut acks = Acks::default();
        acks.delivered(1);
        assert_eq!((acks.finish(1), acks.finish(1), acks.finish(99)), (1, 1, 1));
        assert!(!acks.settle(1));
    }

    proptest! {
        /// Simulates a broker that delivers while the prefetch allows it. Every ack must be for open and finished tags,
        /// and at the end none of those is left.
        #[test]
        fn the_broker_sees_every_finished_tag_once_and_no_other(
            prefetch in 1..=60_usize,
            picks in proptest::collection::vec(any::<prop::sample::Index>(), STEPS),
            flushes in proptest::collection::vec(proptest::bool::weighted(0.2), STEPS),
            behind in proptest::collection::vec(any::<bool>(), STEPS),
            rejects in proptest::collection::vec(proptest::bool::weighted(0.1), STEPS),
        ) {
            let mut acks = Acks::default();
            let (mut running, mut open, mut tags) = (Vec::new(), BTreeSet::new(), 1..);
            for step in 0..STEPS {
                for tag in tags.by_ref().take(prefetch - open.len()) {
                    acks.delivered(tag);
                    running.push(tag);
                    open.insert(tag);
                }
                let tag = running.swap_remove(picks[step].index(running.len()));
                if rejects[step] {
                    prop_assert!(acks.settle(tag) && open.remove(&tag));
                } else {
                    acks.finish(tag);
                }
                prop_assert_eq!(acks.waiting(), open.len() - running.len());
                let last = step == STEPS - 1;
                if flushes[step] || running.is_empty() || last {
                    for (tag, multiple) in flushed(&mut acks, behind[step] || last) {
                        prop_assert!(open.contains(&tag), "ack of {} which is not open", tag);
                        let first = if multiple { 0 } else { tag };
                        let unfinished = open.extract_if(first..=tag, |_| true).find(|tag| running.contains(tag));
                        prop_assert_eq!(unfinished, None, "acked by ({}, {})", tag, multiple);
                    }
                }
            }
            prop_assert_eq!(open, running.into_iter().collect(), "finished and never acked");
        }
    }
}
