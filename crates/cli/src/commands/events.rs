//! `leveret events`: emits an event, lists subscriptions, removes what a service has left behind, and reads the log.

mod log;
mod position;
mod replay;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use leveret::{
    Config, NewEvent, names,
    probe::{Depth, Probe, Refusal},
    topology::{DEAD, SUSPECT, Topology},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::shared::{announced, broker, contents, hidden_if_of_workers, reach};
use crate::{
    management::Management,
    output::{Exit, Failure, Format, notice, print, print_json, table},
};

/// Emits events, lists and removes subscriptions, reads and replays the log of events
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_of_workers))]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    config: Config,

    /// Output format
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Subcommand)]
enum Command {
    /// Emits an event and waits until the queue of each subscription has its copy
    Emit {
        /// Topic, such as order.placed
        topic: String,

        /// Payload as JSON: the text itself, `-` for standard input, or `@FILE`
        #[arg(long, default_value = "{}", value_name = "JSON")]
        payload: String,

        /// Event id; after an uncertain result, emit again with the same id
        #[arg(long, value_name = "ID")]
        id: Option<String>,

        /// Text that is shown with the event
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,

        /// Track the event: workers report its status in each subscription
        #[arg(long)]
        track: bool,

        /// Emit it as a CloudEvent in JSON, with this source, such as /shop
        #[arg(long, value_name = "SOURCE")]
        cloud_event: Option<String>,
    },
    /// Lists subscriptions with their topics, waiting events and consumers
    #[command(mut_args(leveret::setting))]
    List {
        /// RabbitMQ's management API, for all bindings: `http://user:password@host:15672`; without a login, that of `AMQP_URL` is used
        #[arg(long, env = "LEVERET_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
        management_url: Option<String>,
    },
    /// Removes a topic or pattern from a subscription, after its last handler is gone
    Unbind {
        /// Name of the subscription
        name: String,

        /// The topic or pattern, as `list` shows it
        topic: String,
    },
    /// Makes the log of events, a stream that keeps every event from now on
    Log,
    /// Shows the events of the log, and then each new event
    Tail {
        /// Place to start: `first`, `next`, `offset:N`, a time such as 2026-11-21T15:00:00Z, or a duration before now
        #[arg(long, default_value = "next", value_parser = log::start, value_name = "PLACE")]
        from: log::Place,

        /// Only events whose topic matches this pattern
        #[arg(long, value_name = "PATTERN")]
        topic: Option<String>,

        /// End at the newest event instead of waiting for more
        #[arg(long)]
        no_follow: bool,

        /// Show payloads, which may have secrets
        #[arg(long)]
        payloads: bool,
    },
    /// Publishes events of the log to one subscription again, up to the newest event at its start
    Replay(replay::Replay),
    /// Deletes the queues of a subscription whose service is gone; dead letters stay
    Unsubscribe {
        /// Name of the subscription
        name: String,

        /// Delete it with the events that wait in it
        #[arg(long)]
        discard: bool,
    },
}

const AFTER_HELP: &str = "\
`tail` and `replay` require the log, which `leveret events log` makes. Replayed events keep their ids, so that an inbox drops \
those that the subscription has handled. With --again they get new ids. With --position a replay that was interrupted goes \
on where it stopped: it repeats no event that was confirmed, and names those whose confirm it had not seen.

Without --management-url the list contains the topics that workers have announced, also of handlers that are gone. With it \
the list contains the bindings as they are. A worker that runs binds the topics of its handlers again within seconds.

Exit codes:
  0    done
  2    wrong usage: an invalid topic, a subscription in use, or one with waiting events and without --discard
  3    the broker is unreachable or refuses publishes now
  4    an error of the program or its environment
  5    there is no such subscription

Examples:
  leveret events emit order.placed --payload '{\"order\": \"17\"}'
  leveret events emit order.placed --payload '{\"order\": \"17\"}' --cloud-event /shop
  leveret events list --management-url http://127.0.0.1:15672
  leveret events tail --from 1h --topic 'order.*'
  leveret events replay --to warehouse --from 2026-11-21T15:00:00Z --topic 'order.#' --dry-run
  leveret events unbind warehouse order.cancelled
  leveret events unsubscribe old-service --discard";

#[derive(Debug, PartialEq, Eq, Serialize)]
struct SubscriptionRow {
    subscription: String,
    topics: BTreeSet<String>,
    /// `None` if its queue does not exist.
    ready: Option<u32>,
    consumers: Option<u32>,
    dead: u32,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, config, output } = arguments;
    match command {
        Command::Emit { topic, payload, id, label, track, cloud_event } => {
            let payload = match payload.strip_prefix('@') {
                Some(file) => contents(file).await?,
                None if payload == "-" => contents("-").await?,
                None => payload.into_bytes(),
            };
            serde_json::from_slice::<Value>(&payload)
                .map_err(|error| Failure::Usage(anyhow!("--payload is not JSON: {error}")))?;
            let event = NewEvent::raw(topic, payload);
            let event = id.into_iter().fold(event, |event, id| event.id(id));
            let event = label.into_iter().fold(event, |event, label| event.label(label));
            let event = cloud_event.into_iter().fold(event, |event, source| event.cloud_event(source));
            let event = if track { event.track() } else { event };
            let broker = broker(&config).await?;
            let id = broker.publisher().emit(event).await?;
            broker.close().await;
            match output {
                Format::Json => print_json(&json!({ "id": id.as_str() }))?,
                Format::Table => print(&format!("{id}\n"))?,
            }
            Ok(Exit::Success)
        }
        Command::Log => log::declare(&config).await,
        Command::Tail { from, topic, no_follow, payloads } => {
            let shown = log::Shown { topic, no_follow, payloads, output };
            log::tail(&config, from, &shown).await
        }
        Command::Replay(replay) => replay::run(&config, &replay, output).await,
        Command::List { management_url } => list(&config, management_url, output).await,
        Command::Unbind { name, topic } => unbind(&config, &name, &topic).await,
        Command::Unsubscribe { name, discard } => unsubscribe(&config, &name, discard, output).await,
    }
}

async fn list(config: &Config, management_url: Option<String>, output: Format) -> Result<Exit, Failure> {
    let mut probe = reach(config).await?;
    let topics = match management_url {
        Some(url) => bound(&probe, config, &url).await?,
        None => handled(config).await?,
    };
    let mut rows = Vec::new();
    for (subscription, topics) in topics {
        let dead = depth(&mut probe, &format!("{subscription}{DEAD}")).await?.map_or(0, |depth| depth.ready);
        let (ready, consumers) = depth(&mut probe, &subscription).await?.map(|d| (d.ready, d.consumers)).unzip();
        rows.push(SubscriptionRow { subscription, topics, ready, consumers, dead });
    }
    probe.close().await;
    match output {
        Format::Json => print_json(&rows)?,
        Format::Table => print(&shown(&rows))?,
    }
    Ok(Exit::Success)
}

/// The topics of each subscription that workers have announced.
async fn handled(config: &Config) -> Result<BTreeMap<String, BTreeSet<String>>, Failure> {
    let broker = broker(config).await?;
    let entries = announced(&broker).await?;
    broker.close().await;
    let mut topics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.event) {
        topics.entry(entry.queue.clone()).or_default().insert(entry.job.clone());
    }
    Ok(topics)
}

/// The queues that are bound to the exchange of events, and their topics.
async fn bound(probe: &Probe, config: &Config, url: &str) -> Result<BTreeMap<String, BTreeSet<String>>, Failure> {
    let api = Management::new(url, probe.login(), config.tls_ca.as_deref());
    let api = api.map_err(|error| Failure::Usage(error.into()))?;
    let (vhost, exchange) = (probe.vhost().to_owned(), Topology::new(&config.namespace).topics());
    let asked = spawn_blocking(move || api.bindings(&vhost)).await;
    let bindings = asked.map_err(|error| anyhow!(error))?.map_err(|error| anyhow!(error))?;
    let mut topics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let of_events = bindings.into_iter().filter(|it| it.source == exchange && it.destination_type == "queue");
    for binding in of_events {
        topics.entry(binding.destination).or_default().insert(binding.routing_key);
    }
    Ok(topics)
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
            [row.subscription.clone(), topics, count(row.ready), count(row.consumers), row.dead.to_string()]
        })
        .collect();
    table(["SUBSCRIPTION", "TOPICS", "READY", "CONSUMERS", "DEAD"], &lines)
}

async fn unbind(config: &Config, name: &str, topic: &str) -> Result<Exit, Failure> {
    names::pattern(topic).map_err(|rule| Failure::Usage(anyhow!("topic {topic:?}: {rule}")))?;
    let mut probe = reach(config).await?;
    existing(&mut probe, name).await?;
    let exchange = Topology::new(&config.namespace).topics();
    probe.unbind_queue(name, &exchange, topic).await.map_err(|refusal| Failure::Other(refusal.into()))?;
    probe.close().await;
    print(&format!("Events of {topic} do not reach {name} any more. Those that wait in its queue stay.\n"))?;
    Ok(Exit::Success)
}

async fn unsubscribe(config: &Config, name: &str, discard: bool, output: Format) -> Result<Exit, Failure> {
    names::subscription(name).map_err(|rule| Failure::Usage(anyhow!("subscription {name:?}: {rule}")))?;
    let mut probe = reach(config).await?;
    let main = existing(&mut probe, name).await?;
    let (suspect, dead) = (format!("{name}{SUSPECT}"), format!("{name}{DEAD}"));
    let suspects = depth(&mut probe, &suspect).await?;
    let consumers = main.consumers + suspects.map_or(0, |depth| depth.consumers);
    if consumers > 0 {
        return Err(Failure::Usage(anyhow!("subscription {name:?} has consumers: stop its workers first")));
    }
    let waiting = main.ready + suspects.map_or(0, |depth| depth.ready);
    if waiting > 0 && !discard {
        let hint = "add --discard to delete them, or start a worker to handle them";
        return Err(Failure::Usage(anyhow!("{waiting} events wait in the subscription {name:?}: {hint}")));
    }
    for queue in [name, &suspect] {
        match probe.delete_queue(queue).await {
            Ok(_) | Err(Refusal::Missing) => {}
            Err(refusal) => {
                return Err(Failure::Other(anyhow::Error::from(refusal).context(format!("queue {queue:?}"))));
            }
        }
    }
    let letters = depth(&mut probe, &dead).await?.map_or(0, |depth| depth.ready);
    if letters == 0 {
        drop(probe.delete_queue(&dead).await);
    } else {
        notice!("The {letters} dead letters in {dead} stay.");
    }
    probe.close().await;
    match output {
        Format::Json => print_json(&json!({ "deleted": waiting, "dead": letters }))?,
        Format::Table => print(&format!("{name} is deleted, with {waiting} events that waited\n"))?,
    }
    Ok(Exit::Success)
}

async fn existing(probe: &mut Probe, name: &str) -> Result<Depth, Failure> {
    let found = depth(probe, name).await?;
    found.ok_or_else(|| Failure::NotFound(anyhow!("there is no subscription {name:?}")))
}

async fn depth(probe: &mut Probe, queue: &str) -> Result<Option<Depth>, Failure> {
    match probe.depth(queue).await {
        Ok(depth) => Ok(Some(depth)),
        Err(Refusal::Missing) => Ok(None),
        Err(refusal) => Err(anyhow::Error::from(refusal).context(format!("queue {queue:?}")).into()),
    }
}
