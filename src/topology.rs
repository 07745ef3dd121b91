//! Every exchange, queue and binding that exists, and nothing else.
//!
//! | name | what |
//! |---|---|
//! | queue `email` | a job queue, quorum, no length limit (a full target would jam the ladder for all) |
//! | queue `email.suspect` | jobs that came back three times without an outcome, taken one at a time |
//! | queue `email.dead` | its dead letters |
//! | exchange `leveret.v1.jobs` (direct) | the publishers' way in, bound by queue name |
//! | exchange `leveret.v1.dead` (direct) | the way to `<queue>.dead` |
//! | exchanges `leveret.v1.delay.NN` (topic) and `….NN.in` (fanout), queues `leveret.v1.delay.NN` | the delay ladder |
//! | exchange `leveret.v1.due` (topic) | where delays end |
//! | `leveret.v1.unrouted` (fanout and queue) | what has no queue any more: kept, where it would else jam a level for all |
//!
//! Arguments are immutable on a broker, so another set of them is another version in the namespace.

use crate::{
    delay::{self, Entry, LEVELS, UNIT, Wait},
    message::millis,
    queue::Queue,
};

/// The suffix of a job queue's dead letters.
pub(crate) const DEAD: &str = ".dead";
/// The suffix of the lane for jobs that may have taken a process down.
pub(crate) const SUSPECT: &str = ".suspect";
/// A backstop: crash loops are convicted by the worker long before.
const JOB_DELIVERY_LIMIT: i64 = 100;
/// Reading by requeue counts as a delivery before RabbitMQ 4.3; -1 would drop the message on 3.10.
const KEPT_DELIVERY_LIMIT: i64 = 1_000_000;

/// Where a message is published to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A job queue or its suspect lane, by the queue's name.
    Queue(String),
    /// A job queue, after a wait in the broker.
    Delayed(String, Wait),
    /// The dead letters of a job queue.
    Dead(String),
}

impl Target {
    /// The target for a copy of a job of `queue` that waits for `delay`.
    pub(crate) fn after(queue: &str, wait: Wait) -> Self {
        match wait {
            Wait::None => Self::Queue(queue.to_owned()),
            Wait::Units(_) => Self::Delayed(queue.to_owned(), wait),
        }
    }

    /// The job queue this is about.
    pub(crate) fn queue(&self) -> &str {
        match self {
            Self::Queue(queue) | Self::Delayed(queue, _) | Self::Dead(queue) => queue,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeKind {
    Direct,
    Fanout,
    Topic,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) name: String,
    pub(crate) kind: ExchangeKind,
    /// The value of `alternate-exchange`.
    pub(crate) alternate: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuePlan {
    pub(crate) name: String,
    /// Not declared, only looked for: its user owns its arguments.
    pub(crate) adopted: bool,
    pub(crate) arguments: Vec<(&'static str, Argument)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    Text(String),
    Integer(i64),
    Flag(bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Queue(String),
    Exchange(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) source: String,
    pub(crate) key: String,
    pub(crate) destination: Destination,
}

/// What is to be declared, in this order: exchanges, queues, bindings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) queues: Vec<QueuePlan>,
    pub(crate) bindings: Vec<Binding>,
}

/// The names of one namespace and what belongs to them.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    namespace: String,
}

impl Topology {
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// The exchange and routing key that lead to `target`.
    pub(crate) fn route(&self, target: &Target) -> (String, String) {
        match target {
            Target::Queue(queue) | Target::Delayed(queue, Wait::None) => (self.name("jobs"), queue.clone()),
            Target::Dead(queue) => (self.name("dead"), queue.clone()),
            Target::Delayed(queue, Wait::Units(units)) => match delay::entry(*units, queue) {
                Entry::Fast { level, key } => (format!("{}.in", self.delay(level)), key),
                Entry::Chain { level, key } => (self.delay(level), key),
            },
        }
    }

    /// What all queues share: the ways in, the delay ladder and the queue for what has nowhere to go.
    pub(crate) fn shared(&self) -> Plan {
        let (due, unrouted) = (self.name("due"), self.name("unrouted"));
        let mut plan = Plan::default();
        plan.exchange(&unrouted, ExchangeKind::Fanout, None);
        plan.exchange(&self.name("jobs"), ExchangeKind::Direct, None);
        plan.exchange(&self.name("dead"), ExchangeKind::Direct, Some(&unrouted));
        plan.exchange(&due, ExchangeKind::Topic, Some(&unrouted));
        plan.queue(&unrouted, kept_arguments());
        plan.bind(&unrouted, "", Destination::Queue(unrouted.clone()));
        for level in 0..LEVELS {
            self.add_level(&mut plan, level, &due);
        }
        plan
    }

    fn add_level(&self, plan: &mut Plan, level: u8, due: &str) {
        let name = self.delay(level);
        let entry = format!("{name}.in");
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

    /// What belongs to one job queue: itself, its suspect lane, its dead letters.
    pub(crate) fn of_queue(&self, queue: &Queue) -> Plan {
        let name = queue.name();
        let (suspect, dead) = (format!("{name}{SUSPECT}"), format!("{name}{DEAD}"));
        let mut plan = Plan::default();
        plan.queue(&dead, kept_arguments());
        plan.bind(&self.name("dead"), name, Destination::Queue(dead));
        let mut arguments = self.job_arguments(name);
        plan.queue(&suspect, arguments.clone());
        plan.bind(&self.name("jobs"), &suspect, Destination::Queue(suspect.clone()));
        if queue.is_single_active() {
            arguments.push(("x-single-active-consumer", Argument::Flag(true)));
        }
        plan.queues.push(QueuePlan { name: name.to_owned(), adopted: queue.is_existing(), arguments });
        plan.bind(&self.name("jobs"), name, Destination::Queue(name.to_owned()));
        plan.bind(&self.name("due"), &format!("#.{}", delay::topic_word(name)), Destination::Queue(name.to_owned()));
        plan
    }

    fn job_arguments(&self, queue: &str) -> Vec<(&'static str, Argument)> {
        vec![
            ("x-queue-type", text("quorum")),
            ("x-dead-letter-exchange", text(&self.name("dead"))),
            ("x-dead-letter-routing-key", text(queue)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
            ("x-delivery-limit", Argument::Integer(JOB_DELIVERY_LIMIT)),
            ("x-queue-leader-locator", text("balanced")),
        ]
    }

    fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.namespace)
    }

    fn delay(&self, level: u8) -> String {
        format!("{}.delay.{level:02}", self.namespace)
    }
}

impl Plan {
    fn exchange(&mut self, name: &str, kind: ExchangeKind, alternate: Option<&str>) {
        self.exchanges.push(Exchange { name: name.to_owned(), kind, alternate: alternate.map(str::to_owned) });
    }

    fn queue(&mut self, name: &str, arguments: Vec<(&'static str, Argument)>) {
        self.queues.push(QueuePlan { name: name.to_owned(), adopted: false, arguments });
    }

    fn bind(&mut self, source: &str, key: &str, destination: Destination) {
        self.bindings.push(Binding { source: source.to_owned(), key: key.to_owned(), destination });
    }
}

fn kept_arguments() -> Vec<(&'static str, Argument)> {
    vec![
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", Argument::Integer(KEPT_DELIVERY_LIMIT)),
        ("x-queue-leader-locator", text("balanced")),
    ]
}

fn level_arguments(level: u8, below: &str) -> Vec<(&'static str, Argument)> {
    let ttl = i64::try_from(millis(UNIT) << level).unwrap_or(i64::MAX);
    vec![
        ("x-queue-type", text("quorum")),
        ("x-message-ttl", Argument::Integer(ttl)),
        ("x-dead-letter-exchange", text(below)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-queue-leader-locator", text("balanced")),
    ]
}

fn text(value: &str) -> Argument {
    Argument::Text(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_has_a_level_for_each_power_and_ends_at_due() {
        let plan = Topology::new("ns").shared();
        assert_eq!((plan.exchanges.len(), plan.queues.len(), plan.bindings.len()), (4 + 56, 29, 1 + 28 * 4 - 1));
        let level = plan.queues.iter().find(|queue| queue.name == "ns.delay.03").unwrap();
        assert!(level.arguments.contains(&("x-message-ttl", Argument::Integer(800))));
        assert!(level.arguments.contains(&("x-dead-letter-exchange", text("ns.delay.02"))));
        let last = plan.queues.iter().find(|queue| queue.name == "ns.delay.00").unwrap();
        assert!(last.arguments.contains(&("x-dead-letter-exchange", text("ns.due"))));
    }

    #[test]
    fn a_target_has_one_way_in() {
        let topology = Topology::new("leveret.v1");
        let route = |target| topology.route(&target);
        let pair = |exchange: &str, key: &str| (exchange.to_owned(), key.to_owned());
        assert_eq!(route(Target::Queue("email".into())), pair("leveret.v1.jobs", "email"));
        assert_eq!(route(Target::Dead("email".into())), pair("leveret.v1.dead", "email"));
        let fast = route(Target::after("a.b", Wait::Units(16)));
        assert_eq!(fast, pair("leveret.v1.delay.04.in", "due.a%2Eb"));
        assert_eq!(route(Target::after("email", Wait::Units(17))).0, "leveret.v1.delay.04");
        assert_eq!(Target::after("email", Wait::None), Target::Queue("email".into()));
    }
}
