//! The settings of a subscription.

use std::time::Duration;

use crate::{attempt::retry_policy::RetryPolicy, topology::QueueDeclaration, worker::queue::Queue};

/// A subscription: the queue with a service's own copies of events, and how its worker consumes it.
///
/// Its settings and their defaults are those of a [`Queue`]. Where several calls of
/// [`Worker::subscribe`](crate::Worker::subscribe) have one name, one of them may have settings.
///
/// ```
/// use std::time::Duration;
/// use leveret::{RetryPolicy, Subscription};
///
/// let warehouse = Subscription::new("warehouse").concurrency(4).retry(RetryPolicy::exponential().max_attempts(10));
/// let audit = Subscription::new("audit").pattern("order.*").pattern("payment.#");
/// let prices = Subscription::new("prices").keep_last(10_000);
/// let cache = Subscription::each_process();
/// # let _ = (warehouse, audit, prices, cache);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Subscription {
    pub(super) queue: Queue,
    pub(super) patterns: Vec<&'static str>,
    pub(super) is_set: bool,
}

impl Subscription {
    /// Creates a subscription: 1 to 126 bytes without control characters, the name of its queue. All workers with this
    /// name share the events.
    ///
    /// The subscription begins when its first worker starts. It outlives its workers: a service that is removed for good
    /// leaves a queue that grows, until it is deleted.
    pub fn new(name: impl Into<String>) -> Self {
        Self { queue: Queue::new(name), patterns: Vec::new(), is_set: false }
    }

    /// Creates a subscription of each process: every process gets every event that is emitted while it is connected, for
    /// caches and the like.
    ///
    /// The queue belongs to the connection. Events that are emitted while the process is down or disconnected are
    /// missed. An event has one attempt. A failed event is logged, counted as `dropped`, and neither retried nor
    /// dead-lettered; so is an event that a limit would delay. The broker keeps the last 10,000 waiting events, or the
    /// number set by [`keep_last`](Self::keep_last).
    ///
    /// All such handlers of a worker share one queue. [`retry`](Self::retry), [`snooze_limit`](Self::snooze_limit) and
    /// [`single_active`](Self::single_active) have no effect.
    pub fn each_process() -> Self {
        let mut queue = Queue::new("");
        *queue.declaration_mut() = QueueDeclaration::each_process();
        Self { queue, patterns: Vec::new(), is_set: false }
    }

    /// Subscribes a handler of [`RawEvent`](crate::RawEvent) to the topics of a pattern: `*` stands for one word, `#` for
    /// any number of words. May be called several times.
    ///
    /// ```
    /// # use leveret::Subscription;
    /// let orders = Subscription::new("audit").pattern("order.*");
    /// let everything = Subscription::new("archive").pattern("#");
    /// # let _ = (orders, everything);
    /// ```
    pub fn pattern(mut self, pattern: &'static str) -> Self {
        self.patterns.push(pattern);
        self
    }

    /// Limits the queue to this number of waiting events, at least 1. The broker drops the oldest without
    /// dead-lettering it.
    ///
    /// The limit holds for waiting events, not for delivered ones. The broker also drops events that a worker rejects
    /// because it cannot publish a copy. RabbitMQ refuses to change the number of a queue that exists; delete the queue
    /// first.
    pub fn keep_last(self, events: u32) -> Self {
        self.set(|mut queue| {
            let declaration = queue.declaration().clone().keep_last(events);
            *queue.declaration_mut() = declaration;
            queue
        })
    }

    /// Sets how many attempts run at once in this worker; see [`Queue::concurrency`].
    pub fn concurrency(self, attempts: u16) -> Self {
        self.set(|queue| queue.concurrency(attempts))
    }

    /// Sets how many deliveries are unacknowledged at once; see [`Queue::prefetch`].
    pub fn prefetch(self, deliveries: u16) -> Self {
        self.set(|queue| queue.prefetch(deliveries))
    }

    /// Sets the retry policy, also for events that no handler takes; see [`Queue::retry`].
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.set(|queue| queue.retry(policy))
    }

    /// Sets how long an attempt may take; see [`Queue::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|queue| queue.timeout(timeout))
    }

    /// Sets for how long an event may snooze; see [`Queue::snooze_limit`].
    pub fn snooze_limit(self, limit: Duration) -> Self {
        self.set(|queue| queue.snooze_limit(limit))
    }

    /// Lets only one consumer of all workers have the subscription at a time; see [`Queue::single_active`].
    pub fn single_active(self) -> Self {
        self.set(Queue::single_active)
    }

    fn set(self, set: impl FnOnce(Queue) -> Queue) -> Self {
        Self { queue: set(self.queue), is_set: true, ..self }
    }
}
