//! The workers of a queue and who of them is next, as a quorum queue of RabbitMQ has it: whoever may have more stands in a
//! line; the first of it gets a job and goes to the end.

use std::collections::VecDeque;

/// A job in the model, by its number.
pub(crate) type JobNumber = usize;

#[derive(Debug, Default)]
struct Worker {
    running: u32,
    waiting: VecDeque<JobNumber>,
    in_line: bool,
    /// It takes nothing new and is gone when what it runs has ended.
    leaving: bool,
}

/// All workers there ever were; one that left keeps its number.
#[derive(Debug)]
pub(crate) struct Pool {
    concurrency: u32,
    prefetch: u32,
    workers: Vec<Worker>,
    line: VecDeque<usize>,
    /// Those that are not leaving.
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

    /// Attempts that run now.
    pub(crate) fn running(&self) -> u64 {
        self.running
    }

    pub(crate) fn add_worker(&mut self) {
        self.workers.push(Worker::default());
        self.staying += 1;
        self.join_line(self.workers.len() - 1);
    }

    /// Lets the worker leave that came last; the jobs that wait in it go back, in their order.
    pub(crate) fn remove_worker(&mut self) -> VecDeque<JobNumber> {
        let Some(worker) = self.workers.iter_mut().rev().find(|worker| !worker.leaving) else {
            return VecDeque::new();
        };
        worker.leaving = true;
        self.staying -= 1;
        std::mem::take(&mut worker.waiting)
    }

    /// Whether anybody would take a job.
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

    /// Hands a job to the first in line. Gives the worker, if it starts the job at once.
    pub(crate) fn hand_out(&mut self, job: JobNumber) -> Option<usize> {
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

    /// An attempt has ended; gives the job that starts in its place.
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
    fn jobs_go_round_and_wait_in_a_worker_that_has_no_place_for_them() {
        let mut pool = Pool::new(1, 2);
        pool.add_worker();
        pool.add_worker();
        let started: Vec<_> = (0..4).map(|job| pool.hand_out(job)).collect();
        assert_eq!(started, [Some(0), Some(1), None, None]);
        assert!(!pool.has_taker(), "each has two in hand");
        assert_eq!(pool.end(0), Some(2));
        assert!(pool.has_taker());
        assert_eq!((pool.hand_out(4), pool.running()), (None, 2));
    }

    #[test]
    fn who_leaves_hands_back_what_waits_and_ends_what_runs() {
        let mut pool = Pool::new(1, 2);
        pool.add_worker();
        pool.hand_out(0);
        pool.hand_out(1);
        assert_eq!(pool.remove_worker(), [1]);
        assert!(!pool.has_taker() && pool.staying() == 0 && pool.running() == 1);
        assert_eq!(pool.end(0), None);
        assert_eq!((pool.running(), pool.has_taker()), (0, false));
        assert!(pool.remove_worker().is_empty());
    }
}
