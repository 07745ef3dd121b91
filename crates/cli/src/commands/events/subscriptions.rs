//! Subscriptions: `leveret events list`, `unbind` and `unsubscribe`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use clap::Args;
use leveret::{
    Config, names,
    probe::{Depth, Probe, Refusal},
    topology::{DEAD, SUSPECT, Topology},
};
use serde::Serialize;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::super::shared::{UNREADABLE, announced, broker, catalogue, reach};
use crate::{
    management::{Binding, Management, ManagementError},
    output::{Exit, Failure, Format, notice, print, print_json, table},
};

// A doc comment would take the place of the help of the commands.
#[derive(Args, Default)]
#[command(mut_args(leveret::setting))]
pub(super) struct Api {
    /// RabbitMQ's management API, for all bindings: `http://user:password@host:15672`; without a login, that of
    /// `AMQP_URL` is used
    #[arg(long, env = "LEVERET_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    management_url: Option<String>,
}

/// The topics and patterns of each subscription.
type Topics = BTreeMap<String, BTreeSet<String>>;

#[derive(Debug, PartialEq, Eq, Serialize)]
struct SubscriptionRow {
    subscription: String,
    topics: BTreeSet<String>,
    /// `None` if its queue does not exist, or if only others may see it.
    ready: Option<u32>,
    consumers: Option<u32>,
    /// `None` if only others may see them.
    dead: Option<u32>,
}

pub(super) async fn list(config: &Config, api: &Api, output: Format) -> Result<Exit, Failure> {
    let mut probe = reach(config).await?;
    let topics = match &api.management_url {
        Some(url) => bound(&probe, config, url).await?,
        None => handled(config).await?,
    };
    let mut rows = Vec::new();
    for (subscription, topics) in topics {
        rows.push(row(&mut probe, subscription, topics).await?);
    }
    probe.close().await;
    match output {
        Format::Json => print_json(&rows)?,
        Format::Table => print(&shown(&rows))?,
    }
    Ok(Exit::Success)
}

/// The topics of each subscription that workers have announced.
async fn handled(config: &Config) -> Result<Topics, Failure> {
    let broker = broker(config).await?;
    let entries = announced(&broker).await?;
    broker.close().await;
    let mut topics = Topics::new();
    for entry in entries.iter().filter(|entry| entry.event) {
        topics.entry(entry.queue.clone()).or_default().insert(entry.job.clone());
    }
    Ok(topics)
}

/// The queues that are bound to the exchange of events, and their topics.
async fn bound(probe: &Probe, config: &Config, url: &str) -> Result<Topics, Failure> {
    let bindings = ask(probe, config, url, Management::bindings).await?;
    Ok(subscribed(bindings, &Topology::new(&config.namespace)))
}

/// The log is bound to all topics, and is no subscription.
fn subscribed(bindings: Vec<Binding>, topology: &Topology) -> Topics {
    let (exchange, log) = (topology.topics(), topology.event_log());
    let is_queue = |it: &Binding| it.destination_type == "queue" && it.destination != log;
    let mut topics = Topics::new();
    for binding in bindings.into_iter().filter(|it| it.source == exchange && is_queue(it)) {
        topics.entry(binding.destination).or_default().insert(binding.routing_key);
    }
    topics
}

/// Asks the management API on a thread of its own, which it blocks.
async fn ask<T: Send + 'static>(
    probe: &Probe,
    config: &Config,
    url: &str,
    question: fn(&Management, &str) -> Result<T, ManagementError>,
) -> Result<T, Failure> {
    let api = Management::new(url, probe.login(), config.tls_ca.as_deref());
    let api = api.map_err(|error| Failure::Usage(error.into()))?;
    let vhost = probe.vhost().to_owned();
    let asked = spawn_blocking(move || question(&api, &vhost)).await;
    let answer = asked.map_err(|error| Failure::Other(error.into()))?;
    answer.map_err(|error| Failure::Other(error.into()))
}

async fn row(probe: &mut Probe, subscription: String, topics: BTreeSet<String>) -> Result<SubscriptionRow, Failure> {
    let own = visible(probe.depth(&subscription).await, &subscription)?;
    let (ready, consumers) = own.map(|depth| (depth.ready, depth.consumers)).unzip();
    let dead = format!("{subscription}{DEAD}");
    let dead = match probe.depth(&dead).await {
        Err(Refusal::Missing) => Some(0),
        found => visible(found, &dead)?.map(|depth| depth.ready),
    };
    Ok(SubscriptionRow { subscription, topics, ready, consumers, dead })
}

/// The state of a queue, or `None` if it does not exist, belongs to another connection, or is hidden from this user.
fn visible(found: Result<Depth, Refusal>, queue: &str) -> Result<Option<Depth>, Failure> {
    match found {
        Err(Refusal::Locked(_) | Refusal::Denied(_)) => Ok(None),
        found => if_exists(found, queue),
    }
}

fn shown(rows: &[SubscriptionRow]) -> String {
    if rows.is_empty() {
        return "No worker has subscribed on this broker and namespace yet.\n".to_owned();
    }
    let count = |count: Option<u32>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let lines: Vec<_> = rows
        .iter()
        .map(|row| {
            let topics = row.topics.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            [row.subscription.clone(), topics, count(row.ready), count(row.consumers), count(row.dead)]
        })
        .collect();
    table(["SUBSCRIPTION", "TOPICS", "READY", "CONSUMERS", "DEAD"], &lines)
}

pub(super) async fn unbind(config: &Config, name: &str, topic: &str) -> Result<Exit, Failure> {
    names::pattern(topic).map_err(|rule| Failure::Usage(anyhow!("topic {topic:?}: {rule}")))?;
    let mut probe = reach(config).await?;
    existing(&mut probe, name).await?;
    let exchange = Topology::new(&config.namespace).topics();
    probe.unbind_queue(name, &exchange, topic).await.map_err(|refusal| Failure::Other(refusal.into()))?;
    probe.close().await;
    print(&format!("Events of {topic} do not reach {name} any more. Those that wait in its queue stay.\n"))?;
    Ok(Exit::Success)
}

pub(super) async fn unsubscribe(
    config: &Config,
    api: &Api,
    name: &str,
    discard: bool,
    output: Format,
) -> Result<Exit, Failure> {
    names::subscription(name).map_err(|rule| Failure::Usage(anyhow!("subscription {name:?}: {rule}")))?;
    let mut probe = reach(config).await?;
    let (suspect, dead) = (format!("{name}{SUSPECT}"), format!("{name}{DEAD}"));
    let mut found = Vec::new();
    for queue in [name, &suspect] {
        found.extend(depth(&mut probe, queue).await?);
    }
    if found.is_empty() && depth(&mut probe, &dead).await?.is_none() {
        return Err(missing(name));
    }
    check(&probe, config, api, name).await?;
    if found.iter().any(|depth| depth.consumers > 0) {
        return Err(Failure::Usage(anyhow!("subscription {name:?} has consumers: stop its workers first")));
    }
    let waiting: u32 = found.iter().map(|depth| depth.ready).sum();
    if waiting > 0 && !discard {
        let hint = "add --discard to delete them, or start a worker to handle them";
        return Err(Failure::Usage(anyhow!("{waiting} events wait in the subscription {name:?}: {hint}")));
    }
    let unacknowledged = unacknowledged(&probe, config, api, &dead).await?;
    for queue in [name, &suspect] {
        delete(&mut probe, queue).await?;
    }
    let letters = depth(&mut probe, &dead).await?;
    let reason = letters.and_then(|letters| reason_to_stay(letters.ready, letters.consumers, unacknowledged));
    match &reason {
        Some(reason) => notice!("{dead} stays: {reason}. The same command deletes it once it is empty and unused."),
        None => delete(&mut probe, &dead).await?,
    }
    let unrouted = Topology::new(&config.namespace).unrouted();
    notice!("Copies that wait for a retry in the delay ladder arrive in {unrouted} later.");
    probe.close().await;
    let letters = letters.map_or(0, |letters| letters.ready);
    let stays: Vec<_> = reason.iter().map(|_| &dead).collect();
    match output {
        Format::Json => print_json(&json!({ "deleted": waiting, "dead": letters, "stays": stays }))?,
        Format::Table => print(&format!("{name} is deleted, with {waiting} events that waited\n"))?,
    }
    Ok(Exit::Success)
}

/// The number of messages that a client has read from a queue and not acknowledged yet, which only the management API
/// states.
async fn unacknowledged(probe: &Probe, config: &Config, api: &Api, queue: &str) -> Result<u64, Failure> {
    let Some(url) = &api.management_url else { return Ok(0) };
    let queues = ask(probe, config, url, Management::queues).await?;
    Ok(queues.iter().find(|known| known.name == queue).map_or(0, |known| known.messages_unacknowledged))
}

/// The reason why a queue of dead letters stays. The broker would delete it with those that a consumer has not
/// acknowledged yet, and counts only the others.
fn reason_to_stay(ready: u32, consumers: u32, unacknowledged: u64) -> Option<String> {
    match (ready, consumers, unacknowledged) {
        (0, 0, 0) => None,
        (0, 0, _) => Some(format!("it has unacknowledged dead letters ({unacknowledged})")),
        (0, _, _) => Some("its consumer, such as `leveret serve`, may have unacknowledged dead letters".to_owned()),
        (ready, _, _) => Some(format!("it has dead letters ({ready})")),
    }
}

async fn delete(probe: &mut Probe, queue: &str) -> Result<(), Failure> {
    match probe.delete_queue(queue).await {
        Ok(_) | Err(Refusal::Missing) => Ok(()),
        Err(refusal) => Err(Failure::Other(anyhow::Error::from(refusal).context(format!("queue {queue:?}")))),
    }
}

/// Refuses a queue that is no subscription, such as a job queue: by the catalogue, or else by its bindings.
pub(super) async fn check(probe: &Probe, config: &Config, api: &Api, name: &str) -> Result<(), Failure> {
    let broker = broker(config).await?;
    let (catalogue, is_read) = catalogue(&broker).await;
    broker.close().await;
    if catalogue.is_subscription(name) {
        return Ok(());
    }
    let none = |reason: &str| Failure::NotFound(anyhow!("queue {name:?} is no subscription: {reason}"));
    let Some(url) = &api.management_url else {
        let way_out = "with --management-url its bindings decide";
        return Err(match is_read {
            true => none(&format!("no worker has announced it as one; {way_out}")),
            false => Failure::Other(anyhow!("queue {name:?}: {UNREADABLE}; {way_out}")),
        });
    };
    let is_bound = bound(probe, config, url).await?.contains_key(name);
    if is_bound { Ok(()) } else { Err(none("no worker has announced it as one, and no topic is bound to it")) }
}

pub(super) async fn existing(probe: &mut Probe, name: &str) -> Result<(), Failure> {
    depth(probe, name).await?.map(drop).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Failure {
    Failure::NotFound(anyhow!("there is no subscription {name:?}"))
}

pub(super) async fn depth(probe: &mut Probe, queue: &str) -> Result<Option<Depth>, Failure> {
    if_exists(probe.depth(queue).await, queue)
}

fn if_exists(found: Result<Depth, Refusal>, queue: &str) -> Result<Option<Depth>, Failure> {
    match found {
        Ok(depth) => Ok(Some(depth)),
        Err(Refusal::Missing) => Ok(None),
        Err(refusal) => Err(anyhow::Error::from(refusal).context(format!("queue {queue:?}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_are_bound_to_topics_are_subscriptions_except_the_log() {
        let binding = |source: &str, (kind, destination): (&str, &str), key: &str| Binding {
            source: source.to_owned(),
            destination: destination.to_owned(),
            destination_type: kind.to_owned(),
            routing_key: key.to_owned(),
        };
        let bindings = vec![
            binding("ns.topics", ("queue", "audit"), "order.*"),
            binding("ns.topics", ("queue", "audit"), "mail.sent"),
            binding("ns.topics", ("queue", "ns.each.7"), "order.*"),
            binding("ns.topics", ("queue", "ns.event-log"), "#"),
            binding("ns.topics", ("exchange", "bridge"), "#"),
            binding("ns.jobs", ("queue", "email"), "email"),
        ];
        let found = subscribed(bindings, &Topology::new("ns"));
        let topics = |topics: &[&str]| topics.iter().map(|topic| (*topic).to_owned()).collect::<BTreeSet<_>>();
        let expected =
            [("audit".to_owned(), topics(&["mail.sent", "order.*"])), ("ns.each.7".to_owned(), topics(&["order.*"]))];
        assert_eq!(found, Topics::from(expected));
    }

    #[test]
    fn a_queue_that_only_others_may_see_is_a_row_without_counts_and_a_lost_connection_is_an_error() {
        let text = || "refused".to_owned();
        for refusal in [Refusal::Missing, Refusal::Locked(text()), Refusal::Denied(text())] {
            assert_eq!(visible(Err(refusal), "audit").unwrap(), None);
        }
        let error = visible(Err(Refusal::Failed(text())), "audit").unwrap_err();
        assert!(format!("{:#}", error.error()).contains("audit"), "{error:?}");
        let row = SubscriptionRow {
            subscription: "each".to_owned(),
            topics: BTreeSet::new(),
            ready: None,
            consumers: None,
            dead: None,
        };
        let table = shown(&[row]);
        let cells: Vec<_> = table.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!(cells, ["each", "-", "-", "-"]);
    }

    #[test]
    fn dead_letters_stay_while_one_is_ready_or_may_be_unacknowledged() {
        for (ready, consumers, unacknowledged, part) in
            [(3, 0, 0, "3"), (3, 1, 4, "3"), (0, 1, 0, "leveret serve"), (0, 0, 2, "2")]
        {
            let reason = reason_to_stay(ready, consumers, unacknowledged).unwrap();
            assert!(reason.contains(part), "{reason}");
        }
        assert_eq!(reason_to_stay(0, 0, 0), None);
    }
}
