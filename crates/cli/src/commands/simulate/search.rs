//! Runs the model for the given numbers of workers, or searches the smallest sufficient number.

use std::collections::BTreeMap;

use leveret_simulate::{Load, Outcome, System, run};
use serde::Serialize;

use super::arguments::Arguments;

/// The upper limit of the search.
const MOST_WORKERS: u32 = 65_536;
/// The highest sustained utilisation of a queue's leader.
const LEADER_LIMIT: f64 = 0.8;

/// The result of the search.
#[derive(Debug, Serialize)]
pub(super) struct SearchResult {
    pub(super) rows: Vec<WorkersRow>,
    /// The smallest sufficient number of workers, if it was searched and found.
    pub(super) fewest: Option<u32>,
    /// Attempts per second on average, including retries. The next two fields are the capacity of one worker and the queue.
    pub(super) attempts_per_second: f64,
    pub(super) attempts_per_second_of_a_worker: f64,
    pub(super) attempts_per_second_of_the_queue: f64,
    /// The number of queues that should share the load.
    pub(super) queues: u32,
    pub(super) target_wait_seconds: f64,
}

/// The result for one number of workers. Times are in seconds.
#[derive(Debug, Serialize)]
pub(super) struct WorkersRow {
    /// The maximum number of workers. With an autoscaler it exceeds the mean.
    pub(super) workers: u32,
    pub(super) mean_workers: f64,
    /// The utilisation of the workers' slots, from 0 to 1. The next field is that of the queue's leader.
    pub(super) busy: f64,
    pub(super) leader_busy: f64,
    pub(super) wait_p50: f64,
    pub(super) wait_p95: f64,
    pub(super) wait_p99: f64,
    pub(super) longest_wait: f64,
    pub(super) longest_queue: u64,
    /// The time from the start until the queue was empty again after its peak.
    pub(super) caught_up: Option<f64>,
    pub(super) succeeded: u64,
    pub(super) retried: u64,
    pub(super) dead: u64,
    /// True if more attempts arrive on average than these workers can run.
    pub(super) overloaded: bool,
}

pub(super) fn rows(arguments: &Arguments, show: impl Fn(u32)) -> SearchResult {
    let mut search = Search::new(arguments, show);
    let mut fewest = None;
    let leader_can = search.attempts_per_second <= search.system.queue_rate;
    if arguments.is_search() && leader_can {
        fewest = first(search.least(), &mut |workers| search.is_enough(workers));
        for around in fewest.into_iter().flat_map(|fewest| [fewest.saturating_sub(1).max(1), fewest + 1, fewest * 2]) {
            search.at(around);
        }
    } else if arguments.workers().next().is_none() {
        search.at(search.least());
    } else {
        arguments.workers().for_each(|workers| _ = search.at(workers));
    }
    let queues = (search.attempts_per_second / (LEADER_LIMIT * search.system.queue_rate)).ceil().max(1.0) as u32;
    SearchResult {
        fewest,
        attempts_per_second: search.attempts_per_second,
        attempts_per_second_of_a_worker: search.of_a_worker,
        attempts_per_second_of_the_queue: search.system.queue_rate,
        queues,
        target_wait_seconds: search.target_wait,
        rows: search.seen.into_values().collect(),
    }
}

/// The results so far, by the number of workers.
struct Search<'a, F> {
    arguments: &'a Arguments,
    show: F,
    load: Load,
    system: System,
    attempts_per_second: f64,
    of_a_worker: f64,
    target_wait: f64,
    seen: BTreeMap<u32, WorkersRow>,
}

impl<'a, F: Fn(u32)> Search<'a, F> {
    fn new(arguments: &'a Arguments, show: F) -> Self {
        let (load, system, (.., target_wait)) = (arguments.load(), arguments.system(1), arguments.terms());
        // Each failed attempt except the last of a job is followed by another.
        let attempts = i32::try_from(load.retry.attempts).unwrap_or(i32::MAX);
        let per_job = match load.failures {
            all if all >= 1.0 => f64::from(attempts),
            some => (1.0 - some.powi(attempts)) / (1.0 - some),
        };
        Self {
            arguments,
            show,
            load,
            system,
            attempts_per_second: load.arrivals.rate * per_job,
            of_a_worker: f64::from(system.workers.concurrency) / load.service.mean(),
            target_wait,
            seen: BTreeMap::new(),
        }
    }

    /// The lower limit of the search. With fewer workers the queue would grow indefinitely.
    fn least(&self) -> u32 {
        (self.attempts_per_second / self.of_a_worker).ceil().clamp(1.0, MOST_WORKERS.into()) as u32
    }

    fn at(&mut self, workers: u32) -> &WorkersRow {
        let Self { arguments, load, system, .. } = *self;
        self.seen.entry(workers).or_insert_with(|| {
            (self.show)(workers);
            let (seconds, seed, _) = arguments.terms();
            let can = (f64::from(workers) * self.of_a_worker).min(system.queue_rate);
            let overloaded = system.autoscaler.is_none() && self.attempts_per_second > can;
            row(&run(&arguments.system(workers), load.jobs(seconds, seed)), overloaded)
        })
    }

    fn is_enough(&mut self, workers: u32) -> bool {
        let target = self.target_wait;
        let row = self.at(workers);
        row.wait_p95 <= target && !row.overloaded
    }
}

/// The smallest sufficient number from `least` on, assuming that more workers are never worse.
fn first(least: u32, is_enough: &mut impl FnMut(u32) -> bool) -> Option<u32> {
    let (mut below, mut enough) = (least - 1, least);
    while !is_enough(enough) {
        if enough >= MOST_WORKERS || enough >= least.saturating_mul(64) {
            return None;
        }
        below = enough;
        enough *= 2;
    }
    while enough - below > 1 {
        let middle = below + (enough - below) / 2;
        if is_enough(middle) { enough = middle } else { below = middle }
    }
    Some(enough)
}

fn row(outcome: &Outcome, overloaded: bool) -> WorkersRow {
    let waits = &outcome.waits;
    WorkersRow {
        workers: outcome.workers.0,
        mean_workers: outcome.workers.1,
        busy: outcome.busy,
        leader_busy: outcome.leader_busy,
        wait_p50: waits.quantile(0.5),
        wait_p95: waits.quantile(0.95),
        wait_p99: waits.quantile(0.99),
        longest_wait: waits.largest(),
        longest_queue: outcome.longest_queue,
        caught_up: outcome.caught_up,
        succeeded: outcome.succeeded,
        retried: outcome.retried,
        dead: outcome.dead,
        overloaded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_that_are_enough_are_found_or_none() {
        for wanted in [3, 4, 7, 100, 190] {
            assert_eq!(first(3, &mut |workers| workers >= wanted), Some(wanted));
        }
        assert_eq!(first(3, &mut |_| false), None);
    }
}
