//! Waiting jobs, and the unacknowledged jobs of a channel.

use std::collections::{BTreeSet, VecDeque};

/// The jobs that wait for a delivery.
#[derive(Debug)]
pub(super) struct Jobs {
    next: u64,
    total: u64,
    /// The requeued jobs.
    returned: BTreeSet<u64>,
}

impl Jobs {
    pub(super) fn new(total: u64) -> Self {
        Self { next: 0, total, returned: BTreeSet::new() }
    }

    /// The next job, and true if it is a redelivery.
    pub(super) fn take(&mut self) -> Option<(u64, bool)> {
        if let Some(job) = self.returned.pop_first() {
            return Some((job, true));
        }
        let job = self.next;
        (job < self.total).then(|| {
            self.next += 1;
            (job, false)
        })
    }

    pub(super) fn requeue(&mut self, jobs: impl IntoIterator<Item = u64>) {
        self.returned.extend(jobs);
    }
}

/// The delivery tag is not open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownTag(pub(super) u64);

/// The open deliveries of one channel.
#[derive(Debug)]
pub(super) struct Unacked {
    /// The jobs by delivery tag, from tag `first` on. Settled ones are `None`.
    jobs: VecDeque<Option<u64>>,
    first: u64,
    open: usize,
}

impl Default for Unacked {
    fn default() -> Self {
        Self { jobs: VecDeque::new(), first: 1, open: 0 }
    }
}

impl Unacked {
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Records a delivery. Returns its tag.
    pub(super) fn deliver(&mut self, job: u64) -> u64 {
        self.jobs.push_back(Some(job));
        self.open += 1;
        self.first + self.jobs.len() as u64 - 1
    }

    /// Settles the open delivery of this tag, and with `multiple` all before it. Calls `settled` with each job.
    pub(super) fn settle(&mut self, tag: u64, multiple: bool, mut settled: impl FnMut(u64)) -> Result<(), UnknownTag> {
        let index = tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let job = index.and_then(|index| self.jobs.get_mut(index)).ok_or(UnknownTag(tag))?;
        if job.is_none() {
            return Err(UnknownTag(tag));
        }
        if !multiple {
            job.take().into_iter().for_each(&mut settled);
            self.open -= 1;
        }
        while let Some(front) = self.jobs.front()
            && (front.is_none() || multiple && self.first <= tag)
        {
            if let Some(job) = self.jobs.pop_front().flatten() {
                settled(job);
                self.open -= 1;
            }
            self.first += 1;
        }
        Ok(())
    }

    /// Ends all deliveries. Returns their jobs.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = u64> + use<> {
        self.open = 0;
        self.first += self.jobs.len() as u64;
        std::mem::take(&mut self.jobs).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(unacked: &mut Unacked, tag: u64, multiple: bool) -> Result<Vec<u64>, UnknownTag> {
        let mut jobs = Vec::new();
        unacked.settle(tag, multiple, |job| jobs.push(job)).map(|()| jobs)
    }

    #[test]
    fn a_tag_is_settled_once_alone_or_with_those_before_it() {
        let mut unacked = Unacked::default();
        let tags: Vec<_> = (10..16).map(|job| unacked.deliver(job)).collect();
        assert_eq!(tags, [1, 2, 3, 4, 5, 6]);
        assert_eq!(settled(&mut unacked, 2, false), Ok(vec![11]));
        assert_eq!(settled(&mut unacked, 3, true), Ok(vec![10, 12]));
        for (tag, multiple) in [(3, true), (2, false), (0, true), (7, false), (7, true)] {
            assert_eq!(settled(&mut unacked, tag, multiple), Err(UnknownTag(tag)));
        }
        assert_eq!((unacked.open(), unacked.deliver(16)), (3, 7));
        assert_eq!(settled(&mut unacked, 5, false), Ok(vec![14]));
        assert_eq!(settled(&mut unacked, 5, true), Err(UnknownTag(5)));
        assert_eq!(unacked.take_all().collect::<Vec<_>>(), [13, 15, 16]);
        assert_eq!((unacked.open(), settled(&mut unacked, 4, false)), (0, Err(UnknownTag(4))));
    }

    #[test]
    fn requeued_jobs_are_delivered_before_new_ones_and_in_their_order() {
        let mut jobs = Jobs::new(4);
        assert_eq!([jobs.take(), jobs.take(), jobs.take()], [0, 1, 2].map(|job| Some((job, false))));
        jobs.requeue([2, 0]);
        let rest = [jobs.take(), jobs.take(), jobs.take(), jobs.take()];
        assert_eq!(rest, [Some((0, true)), Some((2, true)), Some((3, false)), None]);
    }
}
