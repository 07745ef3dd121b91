//! Reads the facts from the broker over AMQP and the management API.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use leveret::{
    Broker, Config, TopologyMode,
    probe::{ConnectError, Probe, Refusal},
    schedule::tokens,
    testing::DeadLetter,
    topology::{Destination, QueueDeclaration, QueuePlan, Topology},
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    arguments::Arguments,
    facts::{
        BrokerIdentity, DeadLetters, Facts, JobQueue, Listing, QueueState, RequestRights, Right, RightKind, Route,
        ScheduleQueue, View, as_listed, bound_queues, schedules,
    },
};
use crate::{
    commands::shared::{catalogue, wrong_setting},
    management::{self, Management, ManagementError},
    output::{Failure, Progress},
};

/// The longest wait for the statistics of new queues. RabbitMQ collects them every five seconds.
const FIGURES_WITHIN: Duration = Duration::from_secs(12);
const FIGURES_AGAIN: Duration = Duration::from_millis(500);

/// The reasons why no address of the list led to a broker, one for each.
pub(super) type Unreached = Vec<ConnectError>;

/// Gathers all facts, or the reasons why no broker is reachable.
pub(super) async fn gather(arguments: &Arguments, progress: &Progress) -> Result<Result<Facts, Unreached>, Failure> {
    progress.show("connecting to the broker");
    let (mut probe, dead_ends) = match connect(&arguments.config).await? {
        Ok(connected) => connected,
        Err(unreached) => return Ok(Err(unreached)),
    };
    let ca = arguments.config.tls_ca.as_deref();
    let api = arguments.management_url.as_deref().map(|url| Management::new(url, probe.login(), ca)).transpose();
    let api = api.map_err(|error| Failure::Usage(error.into()))?.map(Arc::new);
    progress.show("asking the management API");
    let view = look(api.as_ref(), probe.vhost()).await?;
    let mut facts = planned(arguments, &probe, dead_ends, view);
    progress.show("comparing the topology");
    compare(&mut probe, &mut facts).await;
    progress.show("checking rights");
    look_at_rights(&mut probe, &mut facts).await;
    look_at_requests(&mut probe, &mut facts, arguments.requests).await;
    progress.show("reading dead letters");
    read_dead_letters(&mut probe, &mut facts, arguments.sample).await;
    probe.close().await;
    progress.show("reading the leaders of schedules");
    read_tokens(&arguments.config, &mut facts).await;
    progress.show("reading the catalogue");
    read_catalogue(&mut facts).await;
    let patience = Instant::now() + FIGURES_WITHIN;
    while !facts.without_figures().is_empty() && Instant::now() < patience {
        progress.show("waiting for statistics of new queues");
        sleep(FIGURES_AGAIN).await;
        facts.view = look(api.as_ref(), &facts.broker.vhost).await?;
    }
    Ok(Ok(facts))
}

/// Connects to the first address that works. It tries the others too, because workers need them after a failover.
async fn connect(config: &Config) -> Result<Result<(Probe, Vec<String>), Unreached>, Failure> {
    let (mut connected, mut unreached) = (None, Vec::new());
    for url in config.addresses() {
        match Probe::connect(url, config).await {
            Ok(probe) if connected.is_none() => connected = Some(probe),
            Ok(probe) => probe.close().await,
            Err(ConnectError::Address(error)) => return Err(wrong_setting(error)),
            Err(error) => unreached.push(error),
        }
    }
    Ok(match connected {
        Some(probe) => Ok((probe, unreached.iter().map(ToString::to_string).collect())),
        None => Err(unreached),
    })
}

/// Reads a vhost from the management API.
async fn look(api: Option<&Arc<Management>>, vhost: &str) -> anyhow::Result<View> {
    let Some(api) = api.map(Arc::clone) else { return Ok(View::NotAsked) };
    let vhost = vhost.to_owned();
    let listed = spawn_blocking(move || list(&api, &vhost)).await.context("asking the management API")?;
    Ok(match listed {
        Ok(listing) => View::Listed(Box::new(listing)),
        Err(error) => View::Failed(error.to_string()),
    })
}

fn list(api: &Management, vhost: &str) -> Result<Listing, ManagementError> {
    let named = |queue: management::Queue| (queue.name.clone(), queue);
    Ok(Listing {
        address: api.address().to_owned(),
        queues: api.queues(vhost)?.into_iter().map(named).collect(),
        exchanges: api.exchanges(vhost)?.into_iter().map(|exchange| (exchange.name.clone(), exchange)).collect(),
        bindings: api.bindings(vhost)?.into_iter().map(route).collect(),
        nodes: api.nodes().map_err(|error| error.to_string()),
        broker_ahead: broker_ahead(api)?,
    })
}

/// The clock difference in seconds, rounded towards zero, because a `Date` has no fraction of a second.
fn broker_ahead(api: &Management) -> Result<Option<i64>, ManagementError> {
    let here = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let before = here();
    let broker = api.time()?;
    let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    Ok(broker.map(|broker| signed(broker) - signed(broker.clamp(before, here()))))
}

fn route(binding: management::Binding) -> Route {
    let destination = match binding.destination_type.as_str() {
        "exchange" => Destination::Exchange(binding.destination),
        _ => Destination::Queue(binding.destination),
    };
    (binding.source, binding.routing_key, destination)
}

/// The plans of the broker. The facts about them are still empty.
fn planned(arguments: &Arguments, probe: &Probe, dead_ends: Vec<String>, view: View) -> Facts {
    let topology = Topology::new(&arguments.config.namespace);
    let listing = match &view {
        View::Listed(listing) => Some(&**listing),
        View::NotAsked | View::Failed(_) => None,
    };
    let mut job_queues = named_queues(arguments, &topology, listing);
    if let (true, Some(listing)) = (job_queues.is_empty(), listing) {
        job_queues = bound_queues(listing, &topology);
    }
    let mut known: Vec<_> = arguments.schedules.iter().map(|name| ScheduleQueue::new(name, &topology)).collect();
    if let (true, Some(listing)) = (known.is_empty(), listing) {
        known = schedules(listing, &topology);
    }
    Facts {
        schedules: known,
        config: arguments.config.clone(),
        handler_timeout: arguments.handler_timeout,
        broker: BrokerIdentity {
            address: format!("{}:{}", probe.host(), probe.port()),
            vhost: probe.vhost().to_owned(),
            user: probe.login().0.to_owned(),
            server: probe.server(),
        },
        dead_ends,
        shared: topology.shared(),
        job_queues,
        exchanges: BTreeMap::new(),
        queues: BTreeMap::new(),
        rights: Vec::new(),
        requests: None,
        dead_letters: BTreeMap::new(),
        tokens: Ok(Vec::new()),
        announced: Vec::new(),
        view,
    }
}

fn named_queues(arguments: &Arguments, topology: &Topology, listing: Option<&Listing>) -> Vec<JobQueue> {
    let as_listed = |name: &str, queue| match listing {
        Some(listing) => as_listed(listing, topology, name, queue),
        None => queue,
    };
    let plain = arguments.queues.iter().map(|name| JobQueue::new(name, topology, |queue| as_listed(name, queue)));
    let single =
        arguments.single_active.iter().map(|name| JobQueue::new(name, topology, QueueDeclaration::single_active));
    let existing =
        arguments.existing.iter().map(|name| JobQueue::new(name, topology, |_| QueueDeclaration::existing(name)));
    let (mut names, all) = (BTreeSet::new(), existing.chain(single).chain(plain));
    all.filter(|queue| names.insert(queue.name.clone())).collect()
}

async fn compare(probe: &mut Probe, facts: &mut Facts) {
    let plans: Vec<_> = facts.plans().cloned().collect();
    for plan in plans {
        for exchange in &plan.exchanges {
            let compared = probe.compare_exchange(exchange).await;
            facts.exchanges.insert(exchange.name.clone(), compared);
        }
        for queue in &plan.queues {
            let seen = see(probe, queue).await;
            facts.queues.insert(queue.name.clone(), seen);
        }
    }
}

async fn see(probe: &mut Probe, plan: &QueuePlan) -> Result<QueueState, Refusal> {
    let depth = probe.depth(&plan.name).await?;
    let compared = if plan.adopted { Ok(()) } else { probe.compare_queue(plan).await };
    Ok(QueueState { ready: depth.ready, consumers: depth.consumers, compared })
}

/// The rights of a worker: it reads its queues and their suspect queues, and writes jobs, dead letters and delays.
async fn look_at_rights(probe: &mut Probe, facts: &mut Facts) {
    let topology = facts.topology();
    let levels = topology.levels().flat_map(|level| [format!("{level}.in"), level]);
    for name in [topology.jobs(), topology.dead()].into_iter().chain(levels) {
        let had = probe.may_write(&name).await;
        facts.rights.push(Right { kind: RightKind::Write, name, had });
    }
    let lanes: Vec<_> = facts.job_queues.iter().flat_map(JobQueue::consumed).collect();
    for name in lanes {
        let had = probe.may_read(&name).await;
        facts.rights.push(Right { kind: RightKind::Read, name, had });
    }
}

/// The rights for requests, if they are asked for or a process waits for replies.
async fn look_at_requests(probe: &mut Probe, facts: &mut Facts, asked: bool) {
    let prefix = facts.topology().reply_prefix();
    let is_used = || facts.listing().is_some_and(|listing| listing.queues.keys().any(|name| name.starts_with(&prefix)));
    if asked || is_used() {
        let (answer, send) = (probe.may_reply().await, probe.may_request(&facts.config.namespace).await);
        facts.requests = Some(RequestRights { answer, send });
    }
}

/// Reads the catalogue, if its stream exists. Another check reports a missing right to read it.
async fn read_catalogue(facts: &mut Facts) {
    if facts.seen(&format!("{}.catalogue", facts.config.namespace)).is_none() {
        return;
    }
    // Verify only: the doctor declares nothing.
    let config = Config { topology: TopologyMode::Verify, ..facts.config.clone() };
    let Ok(broker) = Broker::amqp(config) else { return };
    let (catalogue, is_read) = catalogue(&broker).await;
    if is_read {
        facts.announced = catalogue.entries();
    }
    broker.close().await;
}

async fn read_dead_letters(probe: &mut Probe, facts: &mut Facts, sample: u32) {
    let queues: Vec<_> = facts.job_queues.iter().map(|queue| (queue.name.clone(), queue.dead())).collect();
    for (queue, dead) in queues {
        let Some(total) = facts.seen(&dead).map(|seen| seen.ready) else { continue };
        let mut kinds = BTreeMap::new();
        let count = |letter: DeadLetter| {
            let kind = letter.kind.map_or("unknown", |kind| kind.as_str());
            *kinds.entry(kind.to_owned()).or_default() += 1;
        };
        let read = probe.dead_letters(&queue, sample.min(total), count).await;
        let by_kind = read.map(|read| DeadLetters { total, read, kinds });
        facts.dead_letters.insert(queue, by_kind);
    }
}

/// The tokens of the leaders of schedules, if there are any.
async fn read_tokens(config: &Config, facts: &mut Facts) {
    let stream = facts.topology().schedules();
    if facts.schedules.is_empty() || facts.seen(&stream).is_none() {
        return;
    }
    // Verify only: the doctor declares nothing.
    let config = Config { topology: TopologyMode::Verify, ..config.clone() };
    facts.tokens = match Broker::amqp(config) {
        Ok(broker) => {
            let read = tokens(&broker).await;
            broker.close().await;
            read.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
}
