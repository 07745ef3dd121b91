//! The facts of a broker, and the plan it should match: plain data between [`gather`](super::gather) and the checks.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use leveret::{
    Config,
    catalogue::CatalogueEntry,
    probe::{Refusal, Server},
    schedule::Token,
    topology::{self, DEAD, Destination, HIGH, LOW, Plan, QueueDeclaration, SUSPECT, Topology},
};

use serde_json::Value;

use super::finding::some_of;
use crate::management;

/// The input of all checks.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) config: Config,
    pub(super) handler_timeout: Duration,
    pub(super) broker: BrokerIdentity,
    /// The reasons why other addresses of the list did not work.
    pub(super) dead_ends: Vec<String>,
    pub(super) shared: Plan,
    pub(super) job_queues: Vec<JobQueue>,
    pub(super) schedules: Vec<ScheduleQueue>,
    /// The result of comparing each exchange of the plans.
    pub(super) exchanges: BTreeMap<String, Result<(), Refusal>>,
    /// The state of each queue of the plans.
    pub(super) queues: BTreeMap<String, Result<QueueState, Refusal>>,
    pub(super) rights: Vec<Right>,
    /// The rights for requests, if anything sends requests.
    pub(super) requests: Option<RequestRights>,
    /// Dead letters by job queue, for job queues that have a dead-letter queue.
    pub(super) dead_letters: BTreeMap<String, Result<DeadLetters, Refusal>>,
    /// The tokens of the schedules' leaders, or the reason why they could not be read.
    pub(super) tokens: Result<Vec<Token>, String>,
    /// The jobs that workers announced, as far as they could be read.
    pub(super) announced: Vec<Arc<CatalogueEntry>>,
    pub(super) view: View,
}

/// The address, login and product of the broker.
#[derive(Clone, Debug, Default)]
pub(super) struct BrokerIdentity {
    /// The address as `host:port`.
    pub(super) address: String,
    pub(super) vhost: String,
    pub(super) user: String,
    pub(super) server: Server,
}

/// A job queue with its plan.
#[derive(Clone, Debug)]
pub(super) struct JobQueue {
    pub(super) name: String,
    pub(super) plan: Plan,
}

impl JobQueue {
    pub(super) fn new(name: &str, topology: &Topology, set: impl FnOnce(QueueDeclaration) -> QueueDeclaration) -> Self {
        Self { name: name.to_owned(), plan: topology.of_queue(&set(QueueDeclaration::new(name))) }
    }

    /// The priority lanes in addition to the queue itself.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &str> {
        let others = self.plan.queues.iter().map(|queue| queue.name.as_str());
        others.filter(|name| name.strip_prefix(&self.name).is_some_and(|suffix| [HIGH, LOW].contains(&suffix)))
    }

    /// All queues that a worker consumes for it.
    pub(super) fn consumed(&self) -> impl Iterator<Item = String> {
        [self.name.clone(), self.suspect()].into_iter().chain(self.lanes().map(str::to_owned))
    }

    pub(super) fn suspect(&self) -> String {
        format!("{}{SUSPECT}", self.name)
    }

    /// The topics and patterns, if it is a subscription.
    pub(super) fn topics(&self, topology: &Topology) -> Vec<&str> {
        let exchange = topology.topics();
        let bound = self.plan.bindings.iter().filter(|binding| binding.source == exchange);
        bound.map(|binding| binding.key.as_str()).collect()
    }

    pub(super) fn dead(&self) -> String {
        format!("{}{DEAD}", self.name)
    }
}

/// The queue of a schedule.
#[derive(Clone, Debug)]
pub(super) struct ScheduleQueue {
    pub(super) schedule: String,
    pub(super) name: String,
    pub(super) plan: Plan,
}

impl ScheduleQueue {
    pub(super) fn new(schedule: &str, topology: &Topology) -> Self {
        let (name, plan) = (topology.schedule(schedule), topology.of_schedule(schedule));
        Self { schedule: schedule.to_owned(), name, plan }
    }
}

/// An existing queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueState {
    pub(super) ready: u32,
    pub(super) consumers: u32,
    /// The result of comparing it with its plan.
    pub(super) compared: Result<(), Refusal>,
}

/// A right that a worker needs on one name.
#[derive(Clone, Debug)]
pub(super) struct Right {
    pub(super) kind: RightKind,
    pub(super) name: String,
    pub(super) had: Result<(), Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RightKind {
    Read,
    Write,
}

/// The rights for requests. A worker answers them and a publisher sends them, mostly as two users.
#[derive(Clone, Debug)]
pub(super) struct RequestRights {
    pub(super) answer: Result<(), Refusal>,
    pub(super) send: Result<(), Refusal>,
}

/// Dead letters by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeadLetters {
    pub(super) total: u32,
    /// The number of dead letters that were read.
    pub(super) read: u32,
    pub(super) kinds: BTreeMap<String, u32>,
}

/// The result of the management API.
#[derive(Debug)]
pub(super) enum View {
    NotAsked,
    Failed(String),
    Listed(Box<Listing>),
}

#[derive(Debug)]
pub(super) struct Listing {
    /// The address of the API.
    pub(super) address: String,
    /// The nodes, or the reason why this user may not see them.
    pub(super) nodes: Result<Vec<management::Node>, String>,
    pub(super) queues: BTreeMap<String, management::Queue>,
    pub(super) exchanges: BTreeMap<String, management::Exchange>,
    pub(super) bindings: HashSet<Route>,
    /// The seconds by which the broker's clock is ahead of this machine's, at least.
    pub(super) broker_ahead: Option<i64>,
}

/// A binding: source, routing key and destination.
pub(super) type Route = (String, String, Destination);

pub(super) fn route(binding: &topology::Binding) -> Route {
    (binding.source.clone(), binding.key.clone(), binding.destination.clone())
}

/// The queues that publishers reach by their own name, without lanes of other queues.
pub(super) fn bound_queues(listing: &Listing, topology: &Topology) -> Vec<JobQueue> {
    let (jobs, workflows) = (topology.jobs(), topology.workflows());
    let names: BTreeSet<_> = listing
        .bindings
        .iter()
        .filter_map(|(source, key, destination)| match destination {
            Destination::Queue(name) if *source == jobs && key == name => {
                (*name != workflows && !is_lane(listing, name)).then_some(name)
            }
            Destination::Queue(_) | Destination::Exchange(_) => None,
        })
        .collect();
    names
        .into_iter()
        .map(|name| JobQueue::new(name, topology, |queue| as_listed(listing, topology, name, queue)))
        .collect()
}

/// The queue as listed: single active or not, with lanes or not, a subscription or not.
pub(super) fn as_listed(
    listing: &Listing,
    topology: &Topology,
    name: &str,
    queue: QueueDeclaration,
) -> QueueDeclaration {
    let topics = topology.topics();
    let argument = listing.queues.get(name).and_then(|queue| queue.arguments.get("x-single-active-consumer"));
    let queue = if argument == Some(&Value::Bool(true)) { queue.single_active() } else { queue };
    let has_lanes = [HIGH, LOW].iter().any(|suffix| is_lane(listing, &format!("{name}{suffix}")));
    // The broker does not know the weights of lanes: the worker has them.
    let queue = if has_lanes { queue.lanes() } else { queue };
    let of_queue = |destination: &Destination| matches!(destination, Destination::Queue(bound) if bound == name);
    let bound = listing.bindings.iter().filter(|(source, _, destination)| *source == topics && of_queue(destination));
    let keys: BTreeSet<_> = bound.map(|(_, key, _)| key).collect();
    let is_subscription = !keys.is_empty();
    let queue = keys.into_iter().fold(queue, QueueDeclaration::topic);
    let most = listing.queues.get(name).and_then(|queue| queue.arguments.get("x-max-length")?.as_u64());
    match most.and_then(|most| u32::try_from(most).ok()) {
        Some(most) if is_subscription => queue.keep_last(most),
        _ => queue,
    }
}

/// True if the queue is a lane: it shares the dead letters of the queue that its name begins with.
fn is_lane(listing: &Listing, name: &str) -> bool {
    let Some(base) = [HIGH, LOW].iter().find_map(|suffix| name.strip_suffix(suffix)) else {
        return name.ends_with(SUSPECT);
    };
    let queue = listing.queues.get(name);
    let key = queue.and_then(|queue| queue.arguments.get("x-dead-letter-routing-key"));
    key.and_then(Value::as_str) == Some(base)
}

/// The schedules whose queue exists.
pub(super) fn schedules(listing: &Listing, topology: &Topology) -> Vec<ScheduleQueue> {
    let before = topology.schedule("");
    let names = listing.queues.keys().filter_map(|queue| queue.strip_prefix(&before));
    names.map(|name| ScheduleQueue::new(name, topology)).collect()
}

impl Facts {
    pub(super) fn topology(&self) -> Topology {
        Topology::new(&self.config.namespace)
    }

    /// All plans: the shared one, then each queue's, then each schedule's.
    pub(super) fn plans(&self) -> impl Iterator<Item = &Plan> {
        let schedules = self.schedules.iter().map(|schedule| &schedule.plan);
        std::iter::once(&self.shared).chain(self.job_queues.iter().map(|queue| &queue.plan)).chain(schedules)
    }

    /// The subject of a finding about everything: the job queues, or the namespace if there are none.
    pub(super) fn subject(&self) -> String {
        let names: Vec<_> = self.job_queues.iter().map(|queue| queue.name.as_str()).collect();
        if names.is_empty() { self.config.namespace.clone() } else { some_of(names) }
    }

    pub(super) fn listing(&self) -> Option<&Listing> {
        match &self.view {
            View::Listed(listing) => Some(listing),
            View::NotAsked | View::Failed(_) => None,
        }
    }

    /// Existing queues of the plans without statistics in the API yet.
    pub(super) fn without_figures(&self) -> Vec<&str> {
        let Some(listing) = self.listing() else { return Vec::new() };
        let listed = self.plans().flat_map(|plan| &plan.queues).filter_map(|queue| listing.queues.get(&queue.name));
        listed.filter(|queue| queue.policy_keys.is_none()).map(|queue| queue.name.as_str()).collect()
    }

    /// The queue of this name, if it exists and is visible.
    pub(super) fn seen(&self, queue: &str) -> Option<&QueueState> {
        self.queues.get(queue)?.as_ref().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_queue_that_is_bound_to_topics_is_a_subscription_with_the_limit_that_it_has() {
        let mut facts = healthy::facts();
        let topology = facts.topology();
        let planned = JobQueue::new("prices", &topology, |queue| queue.topic("price.*").keep_last(7));
        let listing = healthy::listing(&mut facts);
        listing.bindings.extend(planned.plan.bindings.iter().map(route));
        let limit = ("x-max-length".to_owned(), json!(7));
        listing.queues.insert("prices".to_owned(), management::Queue { arguments: [limit].into(), ..<_>::default() });
        let found = bound_queues(listing, &topology);
        let found = found.iter().find(|queue| queue.name == "prices").unwrap();
        assert_eq!((found.topics(&topology), &found.plan), (vec!["price.*"], &planned.plan));
    }
}

#[cfg(test)]
pub(super) mod healthy {
    //! Facts without anything wrong in them, for tests to spoil.

    use super::*;
    use leveret::topology::Argument;

    /// A broker of three nodes on which the workers of `email` run, seen through the management API too.
    pub(crate) fn facts() -> Facts {
        let topology = Topology::new("leveret.v1");
        let mut facts = Facts {
            config: Config::default(),
            handler_timeout: Duration::from_secs(300),
            broker: BrokerIdentity {
                address: "mq:5672".into(),
                vhost: "/".into(),
                user: "app".into(),
                server: server("4.3.6"),
            },
            dead_ends: Vec::new(),
            shared: topology.shared(),
            job_queues: vec![JobQueue::new("email", &topology, |queue| queue)],
            schedules: Vec::new(),
            exchanges: BTreeMap::new(),
            queues: BTreeMap::new(),
            rights: Vec::new(),
            requests: None,
            dead_letters: BTreeMap::from([("email".to_owned(), Ok(DeadLetters::default()))]),
            tokens: Ok(Vec::new()),
            announced: Vec::new(),
            view: View::NotAsked,
        };
        let nodes = ["a", "b", "c"];
        let nodes = nodes.map(|name| management::Node { name: name.into(), running: true, ..<_>::default() });
        let mut listing = Listing {
            address: "http://mq:15672".into(),
            nodes: Ok(nodes.into()),
            queues: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            bindings: HashSet::new(),
            broker_ahead: Some(0),
        };
        for plan in facts.plans() {
            listing.exchanges.extend(plan.exchanges.iter().map(exchange));
            listing.queues.extend(plan.queues.iter().map(queue));
            listing.bindings.extend(plan.bindings.iter().map(route));
        }
        let seen = QueueState { ready: 0, consumers: 1, compared: Ok(()) };
        facts.queues = listing.queues.keys().map(|name| (name.clone(), Ok(seen.clone()))).collect();
        facts.exchanges = listing.exchanges.keys().map(|name| (name.clone(), Ok(()))).collect();
        facts.rights.push(Right { kind: RightKind::Read, name: "email".into(), had: Ok(()) });
        facts.view = View::Listed(Box::new(listing));
        facts
    }

    pub(crate) fn server(version: &str) -> Server {
        let mut server = Server::default();
        (server.product, server.version) = ("RabbitMQ".into(), version.into());
        server
    }

    pub(crate) fn listing(facts: &mut Facts) -> &mut Listing {
        let View::Listed(listing) = &mut facts.view else { panic!("not listed") };
        listing
    }

    pub(crate) fn listed<'a>(facts: &'a mut Facts, queue: &str) -> &'a mut management::Queue {
        listing(facts).queues.get_mut(queue).unwrap()
    }

    fn exchange(plan: &topology::Exchange) -> (String, management::Exchange) {
        let alternate = plan.alternate.iter().map(|name| ("alternate-exchange".to_owned(), name.as_str().into()));
        let listed = management::Exchange {
            name: plan.name.clone(),
            kind: plan.kind.as_str().to_owned(),
            durable: true,
            arguments: alternate.collect(),
            ..management::Exchange::default()
        };
        (plan.name.clone(), listed)
    }

    fn queue(plan: &topology::QueuePlan) -> (String, management::Queue) {
        let value = |argument: &Argument| match argument {
            Argument::Text(text) => Value::from(text.as_str()),
            Argument::Integer(number) => Value::from(*number),
            Argument::Flag(flag) => Value::from(*flag),
        };
        let members: Vec<_> = ["a", "b", "c"].map(str::to_owned).into();
        let listed = management::Queue {
            name: plan.name.clone(),
            durable: true,
            arguments: plan.arguments.iter().map(|(name, argument)| ((*name).to_owned(), value(argument))).collect(),
            policy_keys: Some(management::Table::new()),
            leader: Some("a".into()),
            online: members.clone(),
            members,
            ..management::Queue::default()
        };
        (plan.name.clone(), listed)
    }
}
