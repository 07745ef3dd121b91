//! The consumption of a job queue: its concurrency, prefetch, retries and timeouts.

use std::time::Duration;

use crate::{
    attempt::retry_policy::RetryPolicy,
    error::Error,
    job::Job,
    topology::{QueueDeclaration, lane::Lane, queue::LARGEST_PREFETCH},
    worker::spec::HandlerSpec,
};

/// Default weights of the lanes: high, normal, low.
const USUAL_WEIGHTS: [u16; 3] = [6, 3, 1];

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
    replies_anywhere: bool,
    weights: Option<[u16; 3]>,
    /// The most jobs of a batch; 1 for a queue without batches.
    batch: u16,
}

impl Queue {
    /// Creates a quorum queue, which the worker declares when it starts.
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
            replies_anywhere: false,
            weights: None,
            batch: 1,
        }
    }

    /// Creates the queue of a job type: [`Job::QUEUE`], and with [`Job::LANES`] its [lanes](Self::lanes) in the
    /// proportion 6 : 3 : 1.
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

    /// Uses an existing queue, which keeps its own arguments.
    ///
    /// The queue lacks the guarantees of Leveret's arguments. A classic queue is a single copy on one node, and does
    /// not count deliveries, so crash-loop detection does not work. Without Leveret's dead-letter arguments, messages
    /// that the broker itself drops (delivery limit, expiry, too large jobs) are lost or go to the target that the
    /// queue's owner set. The worker logs this when it starts. Retries, delays and Leveret's own dead letters work as
    /// always.
    #[must_use]
    pub fn existing(name: impl Into<String>) -> Self {
        Self { declaration: QueueDeclaration::existing(name), ..Self::new("") }
    }

    /// Sets how many attempts run at once in this worker: 1 to 2000. The suspect queue runs one more.
    #[must_use]
    pub fn concurrency(mut self, attempts: u16) -> Self {
        self.concurrency = attempts;
        self
    }

    /// Sets how many deliveries are unacknowledged at once, running or waiting: from the concurrency to 2000.
    ///
    /// By default, as many jobs wait in the worker as may run, so that the next job is available when one ends. A
    /// waiting job cannot run elsewhere. It gets the first free slot, but with a single slot, one slow job would keep
    /// it from an idle worker. So with a concurrency of 1 no job waits, and the worker is idle for a round trip to the
    /// broker after each job, some milliseconds. Set a higher prefetch for jobs shorter than that. For long jobs, set
    /// the prefetch to the concurrency.
    ///
    /// The worker does not start with a prefetch below the concurrency, because it could never reach the concurrency.
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

    /// Passes every message of the queue to its only handler, whatever name the message has in `leveret-job` or `type`.
    /// It is for queues of other frameworks, which use `type` for their own purposes. With several handlers the worker
    /// does not start. See also [`HandlerOptions::alias`](crate::HandlerOptions::alias).
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

    /// Allows the worker to send replies to every queue that a job names in `reply_to`.
    ///
    /// By default a worker replies only to the reply queues of Leveret's requests (`leveret.v1.reply.*`) and to RabbitMQ's
    /// direct reply-to. With this setting, every publisher of a job to this queue can make the worker write its result into
    /// any queue of the vhost. It is for callers with reply queues of their own.
    ///
    /// ```
    /// # use leveret::Queue;
    /// let queue = Queue::new("quotes").reply_anywhere();
    /// # let _ = queue;
    /// ```
    #[must_use]
    pub fn reply_anywhere(mut self) -> Self {
        self.replies_anywhere = true;
        self
    }

    /// Limits the queue to one consumer at a time among all workers.
    ///
    /// With `concurrency(1)` its jobs run in order, as long as none of them fails.
    ///
    /// A stopping worker keeps the queue until its jobs are done, or until the drain deadline ends them. Then the next
    /// worker gets the remaining jobs, in order. A blocking handler that was cut off may run until its process ends,
    /// beside the next run of its job. A worker that loses its connection loses the queue, but its running jobs
    /// continue.
    #[must_use]
    pub fn single_active(mut self) -> Self {
        self.declaration = self.declaration.single_active();
        self
    }

    /// Gives the queue three lanes by priority, each a queue of its own on the broker: `email.high` for priorities of 5
    /// and above, `email` for 4 and for jobs without a priority, `email.low` for priorities below 4. So priorities work
    /// on every version of RabbitMQ.
    ///
    /// The lanes share the concurrency. If several lanes have jobs, their jobs start in proportion to these weights
    /// (high, normal, low), at least 1 each, so no lane starves. Each lane has its own prefetch. Retries and delays
    /// return to their own lane. The suspect queue and the dead letters (`email.dead`) are shared.
    ///
    /// Publishers put a job into its lane if its type sets [`Job::LANES`](crate::Job::LANES), or the publish sets
    /// [`lanes`](crate::NewJob::lanes). Any other client chooses the lane by its name.
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

    /// Returns the weights of the lanes high, normal and low, if the queue has lanes.
    pub(crate) fn weights(&self) -> Option<[u16; 3]> {
        self.weights
    }

    /// Returns the part of the queue that is declared on the broker.
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

    /// Returns the prefetch of one of its lanes.
    pub(crate) fn prefetch_of(&self, lane: Lane) -> u16 {
        match lane {
            Lane::Main | Lane::High | Lane::Low => self.prefetch_count(),
            Lane::Suspect => 1,
        }
    }

    /// The attempts that may run at once.
    pub(crate) fn limit(&self) -> u16 {
        self.concurrency.saturating_mul(self.batch)
    }

    /// The handlers that may run at once.
    pub(crate) fn concurrency_limit(&self) -> u16 {
        self.concurrency
    }

    pub(crate) fn replies_to_any(&self) -> bool {
        self.replies_anywhere
    }

    /// Takes over the size of the batches of its handler, if it takes batches.
    pub(super) fn take_batches<S>(&mut self, handlers: &[HandlerSpec<S>]) -> Result<(), Error> {
        let mine = || handlers.iter().filter(|handler| handler.queue == self.name());
        let Some((handler, setup)) = mine().find_map(|handler| Some((handler, handler.batch.as_ref()?))) else {
            return Ok(());
        };
        let count = mine().count();
        if count > 1 {
            let reason = format!(
                "queue {:?} has {count} handlers, and one that takes batches must be the only one: give {:?} a queue of \
                 its own",
                self.name(),
                handler.job
            );
            return Err(Error::Setting { setting: "Worker::handle_batch", reason });
        }
        let timeout = handler.timeout.unwrap_or(self.timeout);
        let attempts = handler.retry.as_ref().unwrap_or(&self.retry).attempts();
        setup.batching.check(handler.job, self.concurrency, timeout, attempts)?;
        self.batch = setup.batching.size;
        Ok(())
    }

    pub(crate) fn prefetch_count(&self) -> u16 {
        self.prefetch.unwrap_or(match self.limit() {
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
        let (prefetch, concurrency, limit) = (self.prefetch_count(), self.concurrency, self.limit());
        if !(1..=LARGEST_PREFETCH).contains(&concurrency) {
            return Err(Error::bounds("Queue::concurrency", &of, concurrency, "1 to 2000"));
        }
        if !(limit..=LARGEST_PREFETCH).contains(&prefetch) {
            let bounds = match self.batch {
                1 => format!("{limit} (its concurrency) to 2000"),
                size => format!("{limit} (its concurrency of {concurrency}, times batches of {size}) to 2000"),
            };
            return Err(Error::bounds("Queue::prefetch", &of, prefetch, &bounds));
        }
        if let Some(weights) = self.weights.filter(|weights| weights.contains(&0)) {
            return Err(Error::bounds("Queue::lanes", &of, weights, "weights of at least 1"));
        }
        self.retry.check(&of)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
