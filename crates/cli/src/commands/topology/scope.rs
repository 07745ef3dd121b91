//! The queues and schedules to export.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::anyhow;
use clap::Args;
use leveret::{
    Broker, Config,
    catalogue::CatalogueEntry,
    names,
    probe::{Probe, Refusal},
    schedule::tokens,
    topology::{Plan, QueueDeclaration, Topology},
};

use super::super::shared::{announced, reach};
use crate::output::Failure;

/// Queues by name. With them no broker is contacted.
#[derive(Args)]
pub(super) struct QueueArguments {
    /// Job queue
    #[arg(long = "queue", value_name = "NAME")]
    plain: Vec<String>,

    /// Job queue with priority lanes (`Queue::lanes`)
    #[arg(long, value_name = "NAME")]
    lanes: Vec<String>,

    /// Job queue that one worker consumes at a time (`Queue::single_active`)
    #[arg(long, value_name = "NAME")]
    single_active: Vec<String>,

    /// Foreign queue that a worker consumes without declaring it (`Queue::existing`)
    #[arg(long, value_name = "NAME")]
    existing: Vec<String>,

    /// Subscription with a topic or pattern, as `NAME=PATTERN`; repeat it for more topics
    #[arg(long = "subscription", value_name = "NAME=PATTERN", value_parser = subscription)]
    subscriptions: Vec<(String, String)>,

    /// Schedule
    #[arg(long = "schedule", value_name = "NAME")]
    schedules: Vec<String>,

    /// Add the queue of `leveret serve`
    #[arg(long)]
    status: bool,

    /// Add the stream of all events, as `leveret events log` does
    #[arg(long)]
    event_log: bool,

    #[command(flatten)]
    uses: Uses,
}

/// The uses beside publishing and running jobs. Each requires rights of its own.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Uses {
    /// Let publishers send requests, and workers write replies into every queue of the vhost
    #[arg(long, requires = "users")]
    pub(super) requests: bool,

    /// Let publishers wait for the results of tracked jobs
    #[arg(long, requires = "users")]
    pub(super) results: bool,

    /// Let workers have subscriptions of each process (`Subscription::each_process`)
    #[arg(long, requires = "users")]
    pub(super) each_process: bool,
}

/// The properties of a job queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) lanes: bool,
    pub(super) single_active: bool,
    pub(super) existing: bool,
    /// The topics and patterns of a subscription.
    pub(super) topics: BTreeSet<String>,
    pub(super) keep_last: Option<u32>,
}

/// The topology to export.
#[derive(Debug, Default)]
pub(super) struct ExportScope {
    pub(super) namespace: String,
    pub(super) vhost: String,
    pub(super) queues: BTreeMap<String, Traits>,
    pub(super) schedules: BTreeSet<String>,
    pub(super) status: bool,
    pub(super) event_log: bool,
    pub(super) uses: Uses,
}

impl ExportScope {
    /// The named queues, or without any those that workers announced.
    pub(super) async fn find(config: &Config, named: QueueArguments, vhost: String) -> Result<Self, Failure> {
        let (namespace, status, event_log, uses) =
            (config.namespace.clone(), named.status, named.event_log, named.uses);
        let mut scope = Self { namespace, vhost, status, event_log, uses, ..Self::default() };
        scope.add(named);
        if scope.queues.is_empty() {
            scope.ask(config).await?;
        }
        if scope.queues.is_empty() {
            let hint = "name them with --queue, or start their workers once";
            return Err(Failure::NotFound(anyhow!("no worker has announced a queue: {hint}")));
        }
        Ok(scope)
    }

    fn add(&mut self, named: QueueArguments) {
        let QueueArguments { plain, lanes, single_active, existing, subscriptions, schedules, .. } = named;
        let mut note = |names: Vec<String>, set: fn(&mut Traits)| {
            names.into_iter().for_each(|name| set(self.queues.entry(name).or_default()));
        };
        note(plain, |_| {});
        note(lanes, |traits| traits.lanes = true);
        note(single_active, |traits| traits.single_active = true);
        note(existing, |traits| traits.existing = true);
        for (name, topic) in subscriptions {
            self.queues.entry(name).or_default().topics.insert(topic);
        }
        self.schedules.extend(schedules);
    }

    async fn ask(&mut self, config: &Config) -> Result<(), Failure> {
        let mut probe = reach(config).await?;
        let broker = Broker::amqp(config.clone()).map_err(|error| Failure::Usage(error.into()))?;
        for entry in announced(&broker).await? {
            let (name, traits) = of_entry(&entry);
            let known = self.queues.entry(name).or_default();
            let topics = std::mem::take(&mut known.topics);
            *known = traits;
            known.topics.extend(topics);
        }
        let topology = Topology::new(&self.namespace);
        if is_there(&mut probe, &topology.schedules()).await? {
            let tokens = tokens(&broker).await.map_err(|error| Failure::Other(error.into()))?;
            self.schedules.extend(tokens.into_iter().map(|token| token.schedule));
        }
        self.status |= is_there(&mut probe, &topology.status()).await?;
        self.event_log |= is_there(&mut probe, &topology.event_log()).await?;
        broker.close().await;
        probe.close().await;
        Ok(())
    }

    /// All exchanges, queues and bindings, each once.
    pub(super) fn plan(&self) -> Plan {
        let topology = Topology::new(&self.namespace);
        let mut plan = topology.shared();
        for (name, traits) in &self.queues {
            plan.append(topology.of_queue(&traits.queue(name)));
        }
        for schedule in &self.schedules {
            plan.append(topology.of_schedule(schedule));
        }
        if self.status {
            plan.append(topology.of_status());
        }
        if self.event_log {
            plan.append(topology.of_event_log());
        }
        let (mut exchanges, mut queues, mut bindings) = (HashSet::new(), HashSet::new(), HashSet::new());
        plan.exchanges.retain(|exchange| exchanges.insert(exchange.name.clone()));
        plan.queues.retain(|queue| !queue.adopted && queues.insert(queue.name.clone()));
        plan.bindings.retain(|binding| bindings.insert(binding.clone()));
        plan
    }
}

impl Traits {
    fn queue(&self, name: &str) -> QueueDeclaration {
        let queue = if self.existing { QueueDeclaration::existing(name) } else { QueueDeclaration::new(name) };
        let queue = if self.single_active { queue.single_active() } else { queue };
        let queue = if self.lanes { queue.lanes() } else { queue };
        let queue = self.topics.iter().fold(queue, QueueDeclaration::topic);
        self.keep_last.into_iter().fold(queue, QueueDeclaration::keep_last)
    }
}

fn of_entry(entry: &CatalogueEntry) -> (String, Traits) {
    let CatalogueEntry { job, queue, lanes, single_active, existing, event, keep_last, .. } = entry;
    let topics = if *event { BTreeSet::from([job.clone()]) } else { BTreeSet::new() };
    let (lanes, single_active, existing) = (*lanes, *single_active, *existing);
    (queue.clone(), Traits { lanes, single_active, existing, topics, keep_last: *keep_last })
}

fn subscription(text: &str) -> Result<(String, String), String> {
    let (name, topic) = text.rsplit_once('=').ok_or("it must have the form NAME=PATTERN, such as warehouse=order.*")?;
    names::subscription(name).map_err(|rule| format!("subscription {name:?}: {rule}"))?;
    names::pattern(topic).map_err(|rule| format!("pattern {topic:?}: {rule}"))?;
    Ok((name.to_owned(), topic.to_owned()))
}

async fn is_there(probe: &mut Probe, queue: &str) -> Result<bool, Failure> {
    match probe.depth(queue).await {
        Ok(_) => Ok(true),
        Err(Refusal::Missing) => Ok(false),
        Err(refusal) => Err(anyhow::Error::from(refusal).context(format!("queue {queue:?}")).into()),
    }
}

/// The vhost of the first address.
pub(super) fn vhost(config: &Config) -> anyhow::Result<String> {
    let vhost = config.vhost()?;
    Ok(if vhost.is_empty() { "/".to_owned() } else { vhost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vhost_is_that_of_the_first_address() {
        let table =
            [("amqp://mq", "/"), ("amqp://mq/", "/"), ("amqp://mq/%2f", "/"), ("amqps://u:p@mq:1/a%20b", "a b")];
        for (url, scope) in table {
            let config = Config { amqp_url: vec![url.to_owned(), "amqp://other/x".to_owned()], ..Config::default() };
            assert_eq!(vhost(&config).unwrap(), scope, "{url}");
        }
    }

    #[test]
    fn the_log_of_events_is_exported_on_request_and_its_exchange_once() {
        let scope = ExportScope { namespace: "ns".to_owned(), event_log: true, ..ExportScope::default() };
        let plan = scope.plan();
        assert!(plan.queues.iter().any(|queue| queue.name == "ns.event-log"));
        assert_eq!(plan.exchanges.iter().filter(|exchange| exchange.name == "ns.topics").count(), 1);
    }

    #[test]
    fn schedules_share_a_stream_that_is_written_down_once() {
        let mut scope = ExportScope { namespace: "ns".to_owned(), ..ExportScope::default() };
        scope.schedules.extend(["a".to_owned(), "b".to_owned()]);
        let plan = scope.plan();
        let streams = plan.queues.iter().filter(|queue| queue.name == "ns.schedules").count();
        let ways = plan.bindings.iter().filter(|binding| binding.key == "schedule.token.#").count();
        assert_eq!((streams, ways), (1, 1));
    }
}
