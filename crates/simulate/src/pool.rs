//! The workers of a queue and their order. Like in a quorum queue of RabbitMQ, workers with free prefetch wait in a line. The
//! first in line gets a job and moves to the end.

use std::collections::VecDeque;

/// A job in the model, by its number.
pub(crate) type JobNumber = usize;

#[derive(Debug, Default)]
struct Worker {
    running: u32,
    waiting: VecDeque<JobNumber>,
    in_line: bool,
    /// The worker starts nothing new, and disappears when its running attempts have ended.
    leaving: bool,
}

/// All workers, including removed ones, which keep their number.
#[derive(Debug)]
pub(crate) struct Pool {
    concurrency: u32,
    prefetch: u32,
    workers: Vec<Worker>,
    line: VecDeque<usize>,
    /// The number of workers that are not leaving.
    staying: u32,
    running: u64,
}

impl Pool {
    pub(crate) fn new(concurrency: u32, prefetch: u32) -> Self {
        Self { concurrency, prefetch, workers: Vec::new(), line: VecDeque::new(), staying: 0, running: 0 }
    }

    pub(crate) fn staying(&self) -> u32 {
        self.staying
    }

    /// The number of running attempts.
    pub(crate) fn running(&self) -> u64 {
        self.running
    }

    pub(crate) fn add_worker(&mut self) {
        self.workers.push(Worker::default());
        self.staying += 1;
        self.join_line(self.workers.len() - 1);
    }

    /// Removes the newest worker. Its waiting jobs return to the queue in their order.
    pub(crate) fn remove_worker(&mut self) -> VecDeque<JobNumber> {
        let Some(worker) = self.workers.iter_mut().rev().find(|worker| !worker.leaving) else {
            return VecDeque::new();
        };
        worker.leaving = true;
        self.staying -= 1;
        std::mem::take(&mut worker.waiting)
    }

    /// True if a worker has free prefetch.
    pub(crate) fn has_taker(&mut self) -> bool {
        while let Some(&first) = self.line.front() {
            if !self.workers[first].leaving {
                return true;
            }
            self.workers[first].in_line = false;
            self.line.pop_front();
        }
        false
    }

    /// Delivers a job to the first in line. Returns the worker if it starts the job at once.
    pub(crate) fn deliver(&mut self, job: JobNumber) -> Option<usize> {
        let number = self.line.pop_front()?;
        let worker = &mut self.workers[number];
        worker.in_line = false;
        let starts = worker.running < self.concurrency;
        if starts {
            worker.running += 1;
            self.running += 1;
        } else {
            worker.waiting.push_back(job);
        }
        self.join_line(number);
        starts.then_some(number)
    }

    /// Ends an attempt. Returns the job that starts in its slot.
    pub(crate) fn end(&mut self, number: usize) -> Option<JobNumber> {
        let worker = &mut self.workers[number];
        let next = worker.waiting.pop_front();
        if next.is_none() {
            worker.running -= 1;
            self.running -= 1;
        }
        self.join_line(number);
        next
    }

    fn join_line(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        let in_hand = worker.running as usize + worker.waiting.len();
        if !worker.in_line && !worker.leaving && in_hand < self.prefetch as usize {
            worker.in_line = true;
            self.line.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_delivered_in_turn_and_wait_in_a_worker_without_a_free_slot() {
        let mut pool = Pool::new(1, 2);
        pool.add_worker();
        pool.add_worker();
        let started: Vec<_> = (0..4).map(|job| pool.deliver(job)).collect();
        assert_eq!(started, [Some(0), Some(1), None, None]);
        assert!(!pool.has_taker(), "each has two unacknowledged jobs");
        assert_eq!(pool.end(0), Some(2));
        assert!(pool.has_taker());
        assert_eq!((pool.deliver(4), pool.running()), (None, 2));
    }

    #[test]
    fn a_removed_worker_requeues_waiting_jobs_and_finishes_running_ones() {
        let mut pool = Pool::new(1, 2);
        pool.add_worker();
        pool.deliver(0);
        pool.deliver(1);
        assert_eq!(pool.remove_worker(), [1]);
        assert!(!pool.has_taker() && pool.staying() == 0 && pool.running() == 1);
        assert_eq!(pool.end(0), None);
        assert_eq!((pool.running(), pool.has_taker()), (0, false));
        assert!(pool.remove_worker().is_empty());
    }
}
