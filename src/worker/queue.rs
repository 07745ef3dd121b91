//! A job queue as its worker sees it: how much is in hand, how much runs, how often and how long.

use std::time::Duration;

use crate::{
    attempt::retry::RetryPolicy,
    error::Error,
    job::Job,
    topology::{QueueDeclaration, lane::Lane},
};

/// The weights of lanes that only the job's type asks for: high, normal, low.
const USUAL_WEIGHTS: [u16; 3] = [6, 3, 1];

/// RabbitMQ's bound on the prefetch of a quorum queue's consumer (its documentation, "Quorum Queues").
const LARGEST_PREFETCH: u16 = 2_000;

/// A queue that a worker consumes, with the defaults of its jobs.
///
/// Defaults: concurrency 16, prefetch twice the concurrency (but 1 for a concurrency of 1),
/// [`RetryPolicy::exponential`], timeout 5 minutes, snooze limit 24 hours.
///
/// ```
/// use std::time::Duration;
/// use leveret::{Queue, RetryPolicy};
///
/// let queue = Queue::new("email")
///     .concurrency(8)
///     .timeout(Duration::from_secs(30))
///     .retry(RetryPolicy::exponential().max_attempts(10));
/// let in_order = Queue::new("ledger").single_active().concurrency(1);
/// let slow = Queue::new("reports").concurrency(4).prefetch(4);
/// let of_others = Queue::existing("legacy-mail");
/// # let _ = (queue, in_order, slow, of_others);
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    declaration: QueueDeclaration,
    concurrency: u16,
    prefetch: Option<u16>,
    retry: RetryPolicy,
    timeout: Duration,
    snooze_limit: Duration,
    any_type: bool,
    weights: Option<[u16; 3]>,
}

impl Queue {
    /// A quorum queue of that name, declared by the worker when it starts.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            declaration: QueueDeclaration::new(name),
            concurrency: 16,
            prefetch: None,
            retry: RetryPolicy::default(),
            timeout: Duration::from_secs(300),
            snooze_limit: Duration::from_secs(24 * 3600),
            any_type: false,
            weights: None,
        }
    }

    /// The queue of a job type: [`Job::QUEUE`], and with [`Job::LANES`] its [lanes](Self::lanes) in the proportion 6 : 3 : 1.
    ///
    /// ```
    /// use leveret::Queue;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct SendEmail;
    /// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
    /// let queue = Queue::of::<SendEmail>().concurrency(8);
    /// assert_eq!(queue.declaration().name(), "email");
    /// ```
    #[must_use]
    pub fn of<J: Job>() -> Self {
        let queue = Self::new(J::QUEUE);
        if J::LANES { queue.lanes(USUAL_WEIGHTS) } else { queue }
    }

    /// A queue that exists already and keeps its own arguments.
    ///
    /// What is lost without ours: a classic queue is one copy on one node; without our dead-letter arguments, what the
    /// broker itself gives up (delivery limit, expiry, rejects of too large jobs) is dropped or goes where the queue's
    /// owner sends it. A classic queue does not count its deliveries, so that a job which kills its process is never
    /// convicted. The worker says so when it starts. Retries, delays and dead letters of ours work as always.
    #[must_use]
    pub fn existing(name: impl Into<String>) -> Self {
        Self { declaration: QueueDeclaration::existing(name), ..Self::new("") }
    }

    /// Sets how many attempts run at once in this worker: 1 to 2000. The suspect lane runs one more besides.
    #[must_use]
    pub fn concurrency(mut self, attempts: u16) -> Self {
        self.concurrency = attempts;
        self
    }

    /// Sets how many deliveries are unacknowledged at once, running or waiting: from the concurrency to 2000.
    ///
    /// The default keeps as many waiting as may run, so that the next job is here when one ends. What waits here cannot
    /// run elsewhere: it gets the first place that is free, but where there is one place only, one slow job would keep
    /// it from a worker that is idle. So a concurrency of 1 keeps none waiting, and is idle for a round trip to the
    /// broker after each job, some milliseconds: set more where jobs are shorter than that. Where they are long, set the
    /// concurrency itself.
    ///
    /// The worker does not start with less than the concurrency, which it could then never reach.
    #[must_use]
    pub fn prefetch(mut self, deliveries: u16) -> Self {
        self.prefetch = Some(deliveries);
        self
    }

    /// Sets the retry policy of the queue's jobs.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets how long an attempt may take; it must stay below the broker's consumer timeout (30 minutes by default).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets for how long a job of the queue may snooze ([`JobError::snooze`](crate::JobError::snooze)); 24 hours by
    /// default. A job that snoozes again after that becomes a dead letter. The time counts from when the job became due:
    /// its publish, the end of the delay that it was published with, or its last retry.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::Queue;
    /// let queue = Queue::new("invoices").snooze_limit(Duration::from_secs(7 * 24 * 3600));
    /// # let _ = queue;
    /// ```
    #[must_use]
    pub fn snooze_limit(mut self, limit: Duration) -> Self {
        self.snooze_limit = limit;
        self
    }

    /// Gives every message of the queue to its only handler, whatever name the message has in `leveret-job` or `type`:
    /// for queues of other frameworks, which use `type` for purposes of their own. With several handlers the worker does
    /// not start. See also [`HandlerOptions::alias`](crate::HandlerOptions::alias).
    ///
    /// ```
    /// # use leveret::Queue;
    /// let queue = Queue::existing("legacy-mail").any_type();
    /// # let _ = queue;
    /// ```
    #[must_use]
    pub fn any_type(mut self) -> Self {
        self.any_type = true;
        self
    }

    /// Lets only one consumer of all workers have this queue at a time.
    ///
    /// With `concurrency(1)` its jobs run in order, as long as none of them fails.
    ///
    /// A worker that stops keeps the queue until its jobs are done, or until the drain deadline cuts them off. Then the next
    /// worker gets them, at their place. A blocking handler that was cut off may run on until its process ends, beside the
    /// next run of its job. A worker that loses its connection loses the queue with it, while what runs there goes on.
    #[must_use]
    pub fn single_active(mut self) -> Self {
        self.declaration = self.declaration.single_active();
        self
    }

    /// Gives the queue three lanes by priority, each a queue of its own on the broker: `email.high` for priorities of 5
    /// and above, `email` for 4 and for jobs without one, `email.low` for those below. So priorities work on every
    /// version of RabbitMQ.
    ///
    /// The lanes share the concurrency: where several have jobs, they start in proportion to these weights (high, normal,
    /// low), at least 1 each, and none is ever starved. Each has a prefetch of its own. Retries and delays come back to their own lane; the
    /// suspect lane and the dead letters (`email.dead`) are shared.
    ///
    /// Publishers put a job into its lane if its type says [`Job::LANES`](crate::Job::LANES), or the publish says
    /// [`lanes`](crate::Publish::lanes). Any other client chooses the lane by its name.
    ///
    /// ```
    /// use leveret::Queue;
    ///
    /// let email = Queue::new("email").lanes([6, 3, 1]);
    /// # let _ = email;
    /// ```
    #[must_use]
    pub fn lanes(mut self, weights: [u16; 3]) -> Self {
        self.declaration = self.declaration.lanes();
        self.weights = Some(weights);
        self
    }

    /// The weights of the lanes high, normal and low, if it has them.
    pub(crate) fn weights(&self) -> Option<[u16; 3]> {
        self.weights
    }

    /// What of the queue stands on the broker.
    #[must_use]
    pub fn declaration(&self) -> &QueueDeclaration {
        &self.declaration
    }

    /// Binds the queue to these topics and patterns.
    pub(crate) fn subscribe<'a>(&mut self, topics: impl IntoIterator<Item = &'a str>) {
        let declaration = self.declaration.clone();
        self.declaration = topics.into_iter().fold(declaration, |declaration, topic| declaration.topic(topic));
    }

    pub(crate) fn declaration_mut(&mut self) -> &mut QueueDeclaration {
        &mut self.declaration
    }

    pub(crate) fn name(&self) -> &str {
        self.declaration.name()
    }

    /// The prefetch of one of its lanes.
    pub(crate) fn prefetch_of(&self, lane: Lane) -> u16 {
        match lane {
            Lane::Main | Lane::High | Lane::Low => self.prefetch_count(),
            Lane::Suspect => 1,
        }
    }

    pub(crate) fn limit(&self) -> u16 {
        self.concurrency
    }

    pub(crate) fn prefetch_count(&self) -> u16 {
        self.prefetch.unwrap_or(match self.concurrency {
            1 => 1,
            several => several.saturating_mul(2).min(LARGEST_PREFETCH),
        })
    }

    pub(crate) fn retry_policy(&self) -> &RetryPolicy {
        &self.retry
    }

    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn snooze_bound(&self) -> Duration {
        self.snooze_limit
    }

    pub(crate) fn takes_any_type(&self) -> bool {
        self.any_type
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.declaration.check()?;
        let of = format!("queue {:?}", self.name());
        let (prefetch, concurrency) = (self.prefetch_count(), self.concurrency);
        if !(1..=LARGEST_PREFETCH).contains(&concurrency) {
            return Err(Error::bounds("Queue::concurrency", &of, concurrency, "1 to 2000"));
        }
        if !(concurrency..=LARGEST_PREFETCH).contains(&prefetch) {
            let bounds = format!("{concurrency} (its concurrency) to 2000");
            return Err(Error::bounds("Queue::prefetch", &of, prefetch, &bounds));
        }
        if let Some(weights) = self.weights.filter(|weights| weights.contains(&0)) {
            return Err(Error::bounds("Queue::lanes", &of, weights, "weights of at least 1"));
        }
        self.retry.check(&of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_wait_as_run_but_none_behind_a_single_one() {
        let in_hand = |concurrency| Queue::new("q").concurrency(concurrency).prefetch_count();
        assert_eq!([1, 2, 16, 1_500, 2_000].map(in_hand), [1, 4, 32, 2_000, 2_000]);
    }

    #[test]
    fn the_queue_of_a_job_has_its_name_and_has_lanes_if_the_job_has() {
        use serde::{Deserialize, Serialize};

        #[derive(Serialize, Deserialize)]
        struct Of<const LANES: bool>;

        impl<const LANES: bool> Job for Of<LANES> {
            const NAME: &'static str = "of";
            const QUEUE: &'static str = "queue-of";
            const LANES: bool = LANES;
        }

        let (plain, lanes) = (Queue::of::<Of<false>>(), Queue::of::<Of<true>>());
        assert_eq!((plain.name(), plain.weights()), ("queue-of", None));
        assert_eq!((lanes.name(), lanes.weights()), ("queue-of", Some(USUAL_WEIGHTS)));
        assert!(lanes.declaration().has_lanes() && !plain.declaration().has_lanes());
    }

    #[test]
    fn a_prefetch_that_the_concurrency_cannot_be_reached_with_is_refused_with_both() {
        let error = Queue::new("q").prefetch(4).check().unwrap_err().to_string();
        assert!(error.contains("Queue::prefetch") && error.contains(" 4,") && error.contains(" 16 "), "{error}");
        for right in [Queue::new("q").prefetch(4).concurrency(4), Queue::new("q").concurrency(2_000)] {
            right.check().unwrap();
        }
    }

    #[test]
    fn a_value_out_of_its_bounds_is_refused_with_the_setting_the_value_and_the_bound() {
        let queue = || Queue::new("q");
        let wrong = [
            (queue().concurrency(0), r#"Queue::concurrency: queue "q" has 0, which is out of range: set 1 to 2000"#),
            (
                queue().concurrency(2_001),
                r#"Queue::concurrency: queue "q" has 2001, which is out of range: set 1 to 2000"#,
            ),
            (
                queue().prefetch(0),
                r#"Queue::prefetch: queue "q" has 0, which is out of range: set 16 (its concurrency) to 2000"#,
            ),
            (
                queue().prefetch(u16::MAX),
                r#"Queue::prefetch: queue "q" has 65535, which is out of range: set 16 (its concurrency) to 2000"#,
            ),
            (
                queue().lanes([6, 0, 1]),
                r#"Queue::lanes: queue "q" has [6, 0, 1], which is out of range: set weights of at least 1"#,
            ),
            (
                queue().retry(RetryPolicy::exponential().max_attempts(0)),
                r#"RetryPolicy::max_attempts: queue "q" has 0, which is out of range: set at least 1"#,
            ),
            (
                queue().retry(RetryPolicy::fixed(Duration::ZERO).cap(Duration::from_secs(1))),
                r#"RetryPolicy::cap: queue "q" has a retry policy that is not exponential, so it has no such setting"#,
            ),
        ];
        for (queue, expected) in wrong {
            assert_eq!(queue.check().unwrap_err().to_string(), expected);
        }
    }
}
