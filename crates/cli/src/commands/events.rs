//! `leveret events`: emits an event, lists subscriptions, removes what a service has left behind, and reads the log.

mod log;
mod position;
mod replay;
mod subscriptions;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use leveret::{Config, NewEvent};
use serde_json::{Value, json};

use super::shared::{broker, contents, hidden_if_of_workers};
use crate::output::{Exit, Failure, Format, print, print_json};

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
    List {
        #[command(flatten)]
        api: subscriptions::Api,
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

        #[command(flatten)]
        api: subscriptions::Api,
    },
}

const AFTER_HELP: &str = "\
`tail` and `replay` require the log, which `leveret events log` makes. Replayed events keep their ids, so that an inbox drops \
those that the subscription has handled. With --again they get new ids. With --position a replay that was interrupted goes \
on where it stopped: it repeats no event that was confirmed, and names those whose confirm it had not seen. It ends where \
the first run would have ended, and requires the same options. A replay that is done publishes nothing more.

Without --management-url the list contains the topics that workers have announced, also of handlers that are gone. With it \
the list contains the bindings as they are. A worker that runs binds the topics of its handlers again within seconds.

`replay` and `unsubscribe` refuse a queue that no worker has announced as a subscription, unless --management-url shows a \
topic that is bound to it. `unsubscribe` keeps the dead-letter queue while it has dead letters or a consumer.

Exit codes:
  0    done
  2    wrong usage: an invalid topic, a --position file of another replay, a subscription in use, or one with waiting events \
and without --discard
  3    the broker is unreachable or refuses publishes now
  4    an error of the program or its environment
  5    there is no such subscription, or the queue is not a subscription

Examples:
  leveret events emit order.placed --payload '{\"order\": \"17\"}'
  leveret events emit order.placed --payload '{\"order\": \"17\"}' --cloud-event /shop
  leveret events list --management-url http://127.0.0.1:15672
  leveret events tail --from 1h --topic 'order.*'
  leveret events replay --to warehouse --from 2026-11-21T15:00:00Z --topic 'order.#' --dry-run
  leveret events unbind warehouse order.cancelled
  leveret events unsubscribe old-service --discard";

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
        Command::List { api } => subscriptions::list(&config, &api, output).await,
        Command::Unbind { name, topic } => subscriptions::unbind(&config, &name, &topic).await,
        Command::Unsubscribe { name, discard, api } => {
            subscriptions::unsubscribe(&config, &api, &name, discard, output).await
        }
    }
}
