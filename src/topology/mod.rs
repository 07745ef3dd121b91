//! Every exchange, queue and binding that Leveret declares.
//!
//! | name | purpose |
//! |---|---|
//! | queue `email` | a job queue, quorum, no length limit (a full target would block a ladder level for all queues) |
//! | queue `email.suspect` | jobs delivered three times without an outcome, run one at a time |
//! | queues `email.high`, `email.low` | its lanes by priority, if it has any |
//! | queue `email.dead` | its dead letters |
//! | exchange `leveret.v1.jobs` (direct) | entry for publishers, bound by queue name |
//! | exchange `leveret.v1.dead` (direct) | entry to `<queue>.dead` |
//! | exchanges `leveret.v1.delay.NN` (topic) and `….NN.in` (fanout), queues `leveret.v1.delay.NN` | the delay ladder |
//! | exchange `leveret.v1.due` (topic) | exit of the delay ladder |
//! | `leveret.v1.unrouted` (fanout and queue) | messages whose queue was deleted; elsewhere they would block a ladder
//! level for all |
//! | exchange `leveret.v1.events` (topic) | status updates of tracked jobs |
//! | exchange `leveret.v1.topics` (topic) | entry for events, by topic; the queues of subscriptions are bound to it |
//! | queue `leveret.v1.workflows` | workflows to start and the ends of their steps, until a server reads them; no limits |
//! | queue `leveret.v1.status` | status updates, for seven days, until a status store ingests them; that store declares it |
//! | `leveret.v1.cancelled` (fanout and stream) | ids of cancelled jobs, for ten years |
//! | `leveret.v1.catalogue` (fanout and stream) | the jobs that workers can run, indefinitely |
//! | queues `leveret.v1.each.UUID` | exclusive: the events of one process, while it is connected |
//! | stream `leveret.v1.event-log` | all events, for 30 days; declared when it is asked for |
//! | queues `leveret.v1.clock.UUID.first`, `….last` | exclusive, for some milliseconds while a worker compares its clock with the broker's |
//! | queues `leveret.v1.results.UUID` | exclusive, while a publisher waits for results of tracked jobs |
//! | queue `leveret.v1.reply.UUID` | exclusive, for the replies to the requests of one connection |
//! | queue `leveret.v1.schedule.digest` | the token of a schedule and its leader election; declared by workers with the schedule |
//! | stream `leveret.v1.schedules` | copies of all tokens, the last 16 MiB; declared with the first of those queues |
//!
//! Queue arguments are immutable on a broker, so changed arguments need another version in the namespace.
//!
//! Workers declare from this module. Tools that check or export a worker's topology read it:
//!
//! ```
//! use leveret::topology::{QueueDeclaration, Topology};
//!
//! let topology = Topology::new("leveret.v1");
//! let mut plan = topology.shared();
//! plan.append(topology.of_queue(&QueueDeclaration::new("email")));
//! assert!(plan.queues.iter().any(|queue| queue.name == "email.dead"));
//! ```

mod arguments;
pub(crate) mod delay;
pub(crate) mod events;
pub(crate) mod lane;
mod plan;
pub(crate) mod queue;
mod routes;
mod schedule;
pub(crate) mod topic;

use std::time::Duration;

use self::arguments::{job_arguments, kept_arguments, last_arguments, level_arguments, stream_arguments};
#[cfg(feature = "worker")]
pub(crate) use self::events::EACH_PROCESS;
pub use self::plan::{Argument, Binding, Destination, Exchange, ExchangeKind, Plan, QueuePlan};
pub use self::queue::QueueDeclaration;
pub(crate) use self::{
    events::{EACH_PROCESS_MOST, Start},
    routes::Routes,
};
use crate::{
    time::millis,
    topology::delay::{LEVELS, Wait},
};

/// The suffix of a job queue's dead letters.
pub const DEAD: &str = ".dead";
/// The suffix of the suspect queue, for jobs that may have crashed a process.
pub const SUSPECT: &str = ".suspect";
/// The suffix of the lane for jobs of high priority ([`Queue::lanes`](crate::Queue::lanes)).
pub const HIGH: &str = ".high";
/// The suffix of the lane for jobs of low priority.
pub const LOW: &str = ".low";
/// A backstop: the worker detects crash loops long before.
const JOB_DELIVERY_LIMIT: i64 = 100;
/// Before RabbitMQ 4.3, a read that requeues counts as a delivery. On 3.10, -1 would drop the message.
const KEPT_DELIVERY_LIMIT: i64 = 1_000_000;
/// The time that status updates wait for a status store: seven days.
pub const STATUS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The last status updates of tracked jobs, by their names in routing keys.
pub(crate) const ENDS: [&str; 4] = ["succeeded", "duplicate", "dead", "cancelled"];
/// Size of a stream's segment files. The default of half a gigabyte suits other streams.
const SEGMENT_BYTES: i64 = 8 * 1024 * 1024;

/// The target of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A job queue or its suspect queue, by name.
    Queue(String),
    /// A job queue, after a wait in the broker.
    Delayed(String, Wait),
    /// The dead letters of a job queue.
    Dead(String),
    /// Subscribers to status updates of tracked jobs: an update of this kind, for a job of this queue.
    StatusUpdate(&'static str, String),
    /// The queue of a caller that waits for replies.
    Reply(String),
    /// RabbitMQ's direct reply-to: publishes to it are never known to arrive.
    DirectReply(String),
    /// The queue of workflows.
    Workflows,
    /// The end of a stream.
    Stream(Stream),
    /// The subscriptions to a topic.
    Topic(String),
    /// The workers of a schedule: a message of this kind, for the schedule of that name.
    #[cfg_attr(not(feature = "cron"), expect(dead_code, reason = "there are no schedules"))]
    Schedule(&'static str, String),
}

/// A stream that all workers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Jobs that workers can run.
    Catalogue,
    /// Ids of cancelled jobs.
    Cancelled,
    /// The tokens of schedules.
    Schedules,
    /// All events.
    EventLog,
}

impl Stream {
    /// Returns its name without the namespace.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Catalogue => "catalogue",
            Self::Cancelled => "cancelled",
            Self::Schedules => "schedules",
            Self::EventLog => "event-log",
        }
    }
}

impl Target {
    /// Returns the target for a copy of a job of `queue` after `wait`.
    pub(crate) fn after(queue: impl Into<String>, wait: Wait) -> Self {
        match wait {
            Wait::None => Self::Queue(queue.into()),
            Wait::Units(_) => Self::Delayed(queue.into(), wait),
        }
    }

    /// Returns the job queue of the target; for a stream, its name; for a topic, the topic.
    pub(crate) fn queue(&self) -> &str {
        match self {
            Self::Queue(queue) | Self::Delayed(queue, _) | Self::Dead(queue) | Self::StatusUpdate(_, queue) => queue,
            Self::Reply(queue) | Self::DirectReply(queue) => queue,
            Self::Workflows => "workflows",
            Self::Stream(stream) => stream.name(),
            Self::Topic(topic) => topic,
            Self::Schedule(_, schedule) => schedule,
        }
    }
}

/// The names of one namespace and the objects that belong to them.
///
/// ```
/// # use leveret::topology::Topology;
/// let topology = Topology::new("leveret.v1");
/// assert_eq!((topology.jobs(), topology.unrouted()), ("leveret.v1.jobs".into(), "leveret.v1.unrouted".into()));
/// assert_eq!(topology.levels().last().as_deref(), Some("leveret.v1.delay.27"));
/// ```
#[derive(Clone, Debug)]
pub struct Topology {
    namespace: String,
}

impl Topology {
    /// Returns the topology of a namespace, such as [`Config::namespace`](crate::Config::namespace).
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// Returns the exchange that jobs are published to, by queue name.
    #[must_use]
    pub fn jobs(&self) -> String {
        self.name("jobs")
    }

    /// Returns the exchange that dead letters are published to, by queue name.
    #[must_use]
    pub fn dead(&self) -> String {
        self.name("dead")
    }

    /// Returns the name of the queue for messages whose queue was deleted, and of the exchange before it.
    #[must_use]
    pub fn unrouted(&self) -> String {
        self.name("unrouted")
    }

    /// Returns the queue for workflows to start and for the ends of their steps.
    #[must_use]
    pub fn workflows(&self) -> String {
        self.name("workflows")
    }

    /// Returns the exchange for status updates of tracked jobs, under `job.<step>.<queue>`, and for messages of schedules.
    #[must_use]
    pub fn status_exchange(&self) -> String {
        self.name("events")
    }

    /// Returns the queue that keeps status updates for a status store.
    #[must_use]
    pub fn status(&self) -> String {
        self.name("status")
    }

    /// Returns the start of the names of all queues for replies.
    #[must_use]
    pub fn reply_prefix(&self) -> String {
        self.name("reply.")
    }

    /// Returns the exchange and the two queues of one clock comparison.
    pub(crate) fn clock(&self, id: uuid::Uuid) -> (String, String, String) {
        let queue = |part| format!("{}.{id}.{part}", self.name("clock"));
        (self.name("due"), queue("first"), queue("last"))
    }

    /// Returns whether this is the name of a queue through which a publisher waits for results. Such a queue exists for
    /// as long as the publisher waits.
    ///
    /// ```
    /// # use leveret::topology::Topology;
    /// let topology = Topology::new("leveret.v1");
    /// assert!(topology.is_results_queue("leveret.v1.results.0190a5c6"));
    /// assert!(!topology.is_results_queue("email"));
    /// ```
    #[must_use]
    pub fn is_results_queue(&self, queue: &str) -> bool {
        queue.strip_prefix(&self.name("results")).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Returns the queue through which a process waits for results of tracked jobs.
    pub(crate) fn results(&self, id: uuid::Uuid) -> String {
        format!("{}.{id}", self.name("results"))
    }

    pub(crate) fn stream(&self, stream: Stream) -> String {
        self.name(stream.name())
    }

    /// Returns the wait queues of the delay ladder, the shortest first; each has an exchange of the same name.
    pub fn levels(&self) -> impl Iterator<Item = String> + '_ {
        (0..LEVELS).map(|level| self.delay(level))
    }

    /// Returns the shared part: the entry exchanges, the delay ladder and the queue for unroutable messages.
    #[must_use]
    pub fn shared(&self) -> Plan {
        let (due, unrouted) = (self.name("due"), self.unrouted());
        let mut plan = Plan::default();
        plan.exchange(&unrouted, ExchangeKind::Fanout, None);
        plan.exchange(&self.jobs(), ExchangeKind::Direct, None);
        plan.exchange(&self.dead(), ExchangeKind::Direct, Some(&unrouted));
        plan.exchange(&due, ExchangeKind::Topic, Some(&unrouted));
        plan.queue(&unrouted, kept_arguments());
        plan.bind(&unrouted, "", Destination::Queue(unrouted.clone()));
        // Bound as a job queue is: a user that may publish jobs may start workflows, and report the ends of their steps.
        plan.queue(&self.workflows(), kept_arguments());
        plan.bind(&self.jobs(), &self.workflows(), Destination::Queue(self.workflows()));
        plan.exchange(&self.status_exchange(), ExchangeKind::Topic, None);
        plan.exchange(&self.topics(), ExchangeKind::Topic, None);
        for stream in [Stream::Catalogue, Stream::Cancelled] {
            let name = self.stream(stream);
            plan.exchange(&name, ExchangeKind::Fanout, None);
            plan.queue(&name, stream_arguments(stream));
            plan.bind(&name, "", Destination::Queue(name.clone()));
        }
        for level in 0..LEVELS {
            self.add_level(&mut plan, level, &due);
        }
        plan
    }

    fn add_level(&self, plan: &mut Plan, level: u8, due: &str) {
        let name = self.delay(level);
        let entry = entry_of(&name);
        let below = if level == 0 { due.to_owned() } else { self.delay(level - 1) };
        let higher = "*.".repeat(usize::from(LEVELS - 1 - level));
        plan.exchange(&name, ExchangeKind::Topic, None);
        plan.exchange(&entry, ExchangeKind::Fanout, None);
        plan.queue(&name, level_arguments(level, &below));
        plan.bind(&entry, "", Destination::Queue(name.clone()));
        plan.bind(&name, &format!("{higher}1.#"), Destination::Queue(name.clone()));
        plan.bind(&name, &format!("{higher}0.#"), Destination::Exchange(below));
        if level < LEVELS - 1 {
            plan.bind(&name, "due.#", Destination::Exchange(due.to_owned()));
        }
    }

    /// Returns the objects of one job queue or subscription: itself, its lanes by priority if it has any, its suspect queue, its
    /// dead-letter queue.
    #[must_use]
    pub fn of_queue(&self, queue: &QueueDeclaration) -> Plan {
        let name = queue.name();
        if queue.is_each_process() {
            return Plan::default();
        }
        let (suspect, dead) = (format!("{name}{SUSPECT}"), format!("{name}{DEAD}"));
        let mut plan = Plan::default();
        plan.queue(&dead, kept_arguments());
        plan.bind(&self.dead(), name, Destination::Queue(dead));
        let mut arguments = job_arguments(name, &self.dead());
        plan.queue(&suspect, arguments.clone());
        plan.bind(&self.jobs(), &suspect, Destination::Queue(suspect.clone()));
        if let Some(events) = queue.kept_events() {
            arguments = last_arguments(events);
        }
        if queue.is_single_active() {
            arguments.push(("x-single-active-consumer", Argument::Flag(true)));
        }
        self.add_ways_in(&mut plan, name, arguments.clone(), queue.is_existing());
        for topic in queue.topics() {
            plan.bind(&self.topics(), topic, Destination::Queue(name.to_owned()));
        }
        if queue.has_lanes() {
            for lane in [HIGH, LOW] {
                self.add_ways_in(&mut plan, &format!("{name}{lane}"), arguments.clone(), false);
            }
        }
        plan
    }

    /// Adds a queue with bindings for publishes and for delays.
    fn add_ways_in(&self, plan: &mut Plan, name: &str, arguments: Vec<(&'static str, Argument)>, adopted: bool) {
        let queue = || Destination::Queue(name.to_owned());
        plan.queues.push(QueuePlan { name: name.to_owned(), adopted, exclusive: false, arguments });
        plan.bind(&self.jobs(), name, queue());
        plan.bind(&self.name("due"), &format!("#.{}", delay::topic_word(name)), queue());
    }

    /// Returns the objects of a status store: the queue that keeps status updates.
    #[must_use]
    pub fn of_status(&self) -> Plan {
        let (name, mut arguments) = (self.status(), kept_arguments());
        arguments.push(("x-message-ttl", Argument::Integer(i64::try_from(millis(STATUS_KEPT)).unwrap_or(i64::MAX))));
        let mut plan = Plan::default();
        plan.queue(&name, arguments);
        plan.bind(&self.status_exchange(), "job.#", Destination::Queue(name));
        plan
    }

    fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.namespace)
    }

    fn delay(&self, level: u8) -> String {
        format!("{}.delay.{level:02}", self.namespace)
    }
}

/// Returns the routing key to the workers of a schedule, for messages of that kind, or of all kinds if it is `*`.
fn schedule_key(kind: &str, schedule: &str) -> String {
    format!("schedule.{kind}.{}", delay::topic_word(schedule))
}

/// Returns the exchange before a wait queue after which a message leaves the ladder.
fn entry_of(level: &str) -> String {
    format!("{level}.in")
}

#[cfg(test)]
mod tests {
    use super::{arguments::text, *};

    #[test]
    fn the_ladder_has_a_level_for_each_power_and_ends_at_due() {
        let plan = Topology::new("ns").shared();
        assert_eq!((plan.exchanges.len(), plan.queues.len(), plan.bindings.len()), (8 + 56, 32, 4 + 28 * 4 - 1));
        let level = plan.queues.iter().find(|queue| queue.name == "ns.delay.03").unwrap();
        assert!(level.arguments.contains(&("x-message-ttl", Argument::Integer(800))));
        assert!(level.arguments.contains(&("x-dead-letter-exchange", text("ns.delay.02"))));
        let last = plan.queues.iter().find(|queue| queue.name == "ns.delay.00").unwrap();
        assert!(last.arguments.contains(&("x-dead-letter-exchange", text("ns.due"))));
    }
}
