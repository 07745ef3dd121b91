//! Kubernetes' horizontal autoscaler as KEDA configures it in `deploy/kubernetes/overlays/keda`. It adds workers by the
//! number of waiting jobs and their predicted wait, and removes them slowly.

use std::collections::VecDeque;

/// The settings of an autoscaler. Times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Autoscaler {
    /// The minimum number of workers.
    pub min: u32,
    /// The maximum number of workers.
    pub max: u32,
    /// Waiting jobs per worker above which workers are added.
    pub jobs_per_worker: f64,
    /// Predicted wait above which workers are added.
    pub target_wait: f64,
    /// The time between two evaluations.
    pub interval: f64,
    /// The time from the decision to the first job of a new worker.
    pub start_up: f64,
    /// The time for which fewer workers must have sufficed before one is removed.
    pub scale_down_after: f64,
    /// The time between two removals.
    pub scale_down_every: f64,
}

impl Default for Autoscaler {
    fn default() -> Self {
        Self {
            min: 2,
            max: 20,
            jobs_per_worker: 500.0,
            target_wait: 60.0,
            interval: 15.0,
            start_up: 20.0,
            scale_down_after: 300.0,
            scale_down_every: 60.0,
        }
    }
}

/// The tolerance within which nothing changes (Kubernetes, "Horizontal Pod Autoscaling", tolerance).
const TOLERANCE: f64 = 0.1;
/// The window of the rate of ended jobs, as in the recording rule.
pub(crate) const RATE_OVER: f64 = 300.0;

/// The state of an autoscaler.
#[derive(Debug)]
pub(crate) struct Decisions {
    settings: Autoscaler,
    /// The desired numbers of workers, with their times.
    wanted: VecDeque<(f64, u32)>,
    /// The number of ended attempts at each evaluation.
    ended: VecDeque<(f64, u64)>,
    last_removed: f64,
}

impl Decisions {
    pub(crate) fn new(settings: Autoscaler) -> Self {
        Self { settings, wanted: VecDeque::new(), ended: VecDeque::new(), last_removed: f64::NEG_INFINITY }
    }

    /// The desired number of workers now, with `workers` of them, `ready` jobs in the queue and `ended` attempts so far.
    pub(crate) fn decide(&mut self, now: f64, workers: u32, ready: u64, ended: u64) -> u32 {
        let settings = self.settings;
        self.ended.push_back((now, ended));
        while self.ended.front().is_some_and(|(at, _)| *at < now - RATE_OVER) {
            self.ended.pop_front();
        }
        let by_length = (ready as f64 / settings.jobs_per_worker).ceil();
        let by_wait = self.by_wait(now, workers, ready);
        let wanted = (by_length.max(by_wait).min(f64::from(u32::MAX)) as u32).clamp(settings.min, settings.max);
        self.wanted.push_back((now, wanted));
        while self.wanted.front().is_some_and(|(at, _)| *at < now - settings.scale_down_after) {
            self.wanted.pop_front();
        }
        if wanted > workers {
            // At most double, or four more, per evaluation: Kubernetes' default.
            return wanted.min((workers * 2).max(workers + 4));
        }
        let enough = self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted);
        if enough < workers && now - self.last_removed >= settings.scale_down_every {
            self.last_removed = now;
            return workers - 1;
        }
        workers
    }

    /// Scales in proportion to the predicted excess of the wait.
    fn by_wait(&self, now: f64, workers: u32, ready: u64) -> f64 {
        let Some(&(since, before)) = self.ended.front() else { return 0.0 };
        let (_, ended) = self.ended.back().copied().unwrap_or((now, before));
        let rate = if now > since { (ended - before) as f64 / (now - since) } else { 0.0 };
        if rate <= 0.0 {
            // The rule has no value then, and the query returns 0.
            return 0.0;
        }
        let ratio = ready as f64 / rate / self.settings.target_wait;
        if (ratio - 1.0).abs() <= TOLERANCE { f64::from(workers) } else { (f64::from(workers) * ratio).ceil() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_queue_gets_more_workers_step_by_step_and_an_empty_one_loses_them_one_by_one() {
        let mut decisions = Decisions::new(Autoscaler::default());
        assert_eq!(decisions.decide(0.0, 2, 50_000, 0), 6, "four more at a time while there are few");
        assert_eq!(decisions.decide(15.0, 6, 50_000, 100), 12, "then twice as many");
        assert_eq!(decisions.decide(30.0, 12, 50_000, 200), 20, "never more than the most");
        assert_eq!(decisions.decide(45.0, 20, 0, 300), 20, "a short lull");
        assert_eq!(decisions.decide(331.0, 20, 0, 5_000), 19);
        assert_eq!(decisions.decide(346.0, 19, 0, 5_000), 19, "one a minute");
        assert_eq!(decisions.decide(391.0, 19, 0, 5_000), 18);
    }

    #[test]
    fn the_predicted_wait_counts_where_few_jobs_take_long() {
        let mut decisions = Decisions::new(Autoscaler { jobs_per_worker: 1e9, ..Autoscaler::default() });
        decisions.decide(0.0, 2, 100, 0);
        // One a second, and 200 wait: 200 s instead of 60.
        assert_eq!(decisions.decide(60.0, 3, 200, 60), 7);
        assert_eq!(decisions.decide(75.0, 7, 63, 75), 7, "near enough");
    }
}
