//! The part of a job queue that is declared on the broker.

use crate::{
    error::Error,
    names,
    topology::{delay::topic_word, events::Subscribed, lane::Lane},
};

/// RabbitMQ's bound on the prefetch of a quorum queue's consumer (its documentation, "Quorum Queues").
pub(crate) const LARGEST_PREFETCH: u16 = 2_000;
/// The longest queue name whose dead-letter queue, suspect queue and routing keys fit AMQP's 255 bytes.
const LONGEST_NAME: usize = 180;

/// The declaration of a job queue: its name, its owner and its lanes. [`Queue`](crate::Queue) adds how a worker
/// consumes it.
///
/// ```
/// use leveret::topology::{QueueDeclaration, Topology};
///
/// let plan = Topology::new("leveret.v1").of_queue(&QueueDeclaration::new("email").lanes());
/// assert!(plan.queues.iter().any(|queue| queue.name == "email.high"));
/// let ledger = QueueDeclaration::new("ledger").single_active();
/// let foreign = QueueDeclaration::existing("legacy-mail");
/// assert!(ledger.name() == "ledger" && foreign.name() == "legacy-mail");
/// ```
#[derive(Clone, Debug)]
pub struct QueueDeclaration {
    name: String,
    existing: bool,
    single_active: bool,
    lanes: bool,
    /// Its bindings to topics, if it is a subscription.
    pub(super) subscribed: Option<Box<Subscribed>>,
}

impl QueueDeclaration {
    /// Creates the declaration of a quorum queue.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), existing: false, single_active: false, lanes: false, subscribed: None }
    }

    /// Creates the declaration of a queue that already exists and keeps its own arguments; see
    /// [`Queue::existing`](crate::Queue::existing).
    #[must_use]
    pub fn existing(name: impl Into<String>) -> Self {
        Self { existing: true, ..Self::new(name) }
    }

    /// Limits the queue to one consumer at a time among all workers.
    #[must_use]
    pub fn single_active(mut self) -> Self {
        self.single_active = true;
        self
    }

    /// Gives the queue three lanes by priority; see [`Queue::lanes`](crate::Queue::lanes).
    #[must_use]
    pub fn lanes(mut self) -> Self {
        self.lanes = true;
        self
    }

    /// Returns the queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_existing(&self) -> bool {
        self.existing
    }

    pub(crate) fn is_single_active(&self) -> bool {
        self.single_active
    }

    pub(crate) fn has_lanes(&self) -> bool {
        self.lanes
    }

    /// Returns the lanes without the suspect queue, from high to low priority.
    pub(crate) fn by_priority(&self) -> &'static [Lane] {
        if self.lanes { &[Lane::High, Lane::Main, Lane::Low] } else { &[Lane::Main] }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::Setting { setting: "Queue::new", reason });
        if self.name.is_empty() || topic_word(&self.name).len() > LONGEST_NAME {
            return wrong(format!("queue name {:?} must have 1 to {LONGEST_NAME} bytes", self.name));
        }
        if let Err(rule) = names::queue(&self.name) {
            return wrong(format!("queue name {:?}: {rule}", self.name));
        }
        if self.name.starts_with("amq.") {
            return wrong(format!("queue name {:?}: RabbitMQ reserves names that start with amq.", self.name));
        }
        self.check_subscription()
    }
}
