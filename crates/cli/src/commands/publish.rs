//! `leveret publish`: publishes one job.

use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use clap::Args;
use leveret::{
    Config, JobId, Publish,
    catalogue::Catalogue,
    status_update::{StatusUpdate, Step},
    time::{millis, now_ms},
};
use leveret_serve::dead::edit::{self, CheckedAgainst};
use serde_json::json;

use super::{
    shared::{StoreArguments, UNREADABLE, broker, catalogue, contents, hidden_if_of_workers},
    tracked,
};
use crate::output::{Exit, Failure, Format, notice, print, print_json};

/// Publishes a job and waits for the broker's confirm
///
/// The queue, and the schema that the payload is checked against, come from the catalogue, where workers announce their
/// jobs.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_of_workers))]
pub(crate) struct Arguments {
    /// Job name, such as email.send
    job: String,

    /// Payload as JSON: the text itself, `-` for standard input, or `@FILE`
    #[arg(long, default_value = "{}", value_name = "JSON")]
    payload: String,

    /// Queue, instead of the one that workers announced; required for a job that no worker announced
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,

    /// Delay before the job may start
    #[arg(long, value_parser = leveret::duration, value_name = "DURATION", conflicts_with = "at")]
    delay: Option<Duration>,

    /// Earliest start, as RFC 3339
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,

    /// Time after which a job that has not started is dead-lettered; must exceed the delay
    #[arg(long, value_parser = leveret::duration, value_name = "DURATION")]
    expires: Option<Duration>,

    /// Priority from 0 to 31, the highest first; RabbitMQ before 4.0 ignores it on quorum queues
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=31), value_name = "NUMBER")]
    priority: Option<u8>,

    /// Job id; after an uncertain result, publish again with the same id
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    /// Track the job: the server records its status
    #[arg(long)]
    track: bool,

    /// Text that is shown with the job
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Track the job and wait for its end, 5m by default; requires a server on the same store
    #[arg(long, value_parser = leveret::duration, num_args = 0..=1, default_missing_value = "5m", value_name = "DURATION")]
    wait: Option<Duration>,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    config: Config,

    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    published; with --wait: and completed
  1    with --wait: the job was dead-lettered or cancelled
  2    wrong usage: an unknown job, or a payload that violates the schema
  3    the broker is unreachable or refuses publishes now
  4    an error of the program or its environment
  5    the queue does not exist
  124  with --wait: the job did not end in time

Examples:
  leveret publish email.send --payload '{\"to\": \"ada@example.com\"}'
  leveret publish report --payload @order.json --delay 10m --id report-17 --wait";

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let payload = match arguments.payload.strip_prefix('@') {
        Some(file) => contents(file).await?,
        None if arguments.payload == "-" => contents("-").await?,
        None => arguments.payload.clone().into_bytes(),
    };
    let store = if arguments.wait.is_some() { Some(arguments.store.open().await?) } else { None };
    let broker = broker(&arguments.config).await?;
    let (catalogue, is_read) = catalogue(&broker).await;
    let queue = queue(&arguments, &catalogue, is_read)?;
    let checked = edit::check(&catalogue, &arguments.job, &queue, &payload).await;
    let checked = checked.map_err(|error| Failure::Usage(error.into()))?;
    if checked == CheckedAgainst::Nothing {
        let reason = if is_read { "no worker announced a schema of this job" } else { UNREADABLE };
        notice!("Not checked: {reason}.");
    }
    let publish = broker.publisher().publish_raw(arguments.job.clone(), queue.clone(), payload);
    let publish = if catalogue.has_lanes(&arguments.job, &queue) { publish.lanes() } else { publish };
    let publish = options(publish, &arguments);
    let origin = publish.origin().map(str::to_owned);
    let id = publish.await?;
    match arguments.output {
        Format::Json if store.is_none() => print_json(&json!({ "id": id.as_str(), "queue": queue }))?,
        Format::Json => {}
        Format::Table => print(&format!("{id}\n"))?,
    }
    let Some((store, wait)) = store.zip(arguments.wait) else {
        broker.close().await;
        return Ok(Exit::Success);
    };
    store.record(&[StatusUpdate { origin, ..queued(&arguments, &id, queue) }]).await?;
    let services = leveret_serve::Services::new(&broker, store);
    tracked::wait(&services, id.as_str(), wait, arguments.output).await
}

fn queue(arguments: &Arguments, catalogue: &Catalogue, is_read: bool) -> Result<String, Failure> {
    let announced = catalogue.find(&arguments.job).map(|entry| entry.queue.clone());
    arguments.queue.clone().or(announced).ok_or_else(|| {
        if !is_read {
            return Failure::Usage(anyhow!("{UNREADABLE}: set the queue with --queue"));
        }
        let entries = catalogue.entries();
        let near = entries.iter().map(|entry| entry.job.as_str());
        let nearest = near.min_by_key(|known| strsim::damerau_levenshtein(known, &arguments.job));
        let hint = nearest.map(|name| format!("did you mean {name:?}? If not, ")).unwrap_or_default();
        let job = &arguments.job;
        Failure::Usage(anyhow!(
            "no worker has announced the job {job:?}; {hint}start its worker once, or set the queue with --queue"
        ))
    })
}

fn options(mut publish: Publish, arguments: &Arguments) -> Publish {
    if let Some(delay) = arguments.delay {
        publish = publish.delay(delay);
    }
    if let Some(at) = arguments.at {
        publish = publish.at(SystemTime::from(at));
    }
    if let Some(expires) = arguments.expires {
        publish = publish.expires(expires);
    }
    if let Some(priority) = arguments.priority {
        publish = publish.priority(priority);
    }
    if let Some(id) = &arguments.id {
        publish = publish.id(id);
    }
    if let Some(label) = &arguments.label {
        publish = publish.label(label);
    }
    if arguments.track || arguments.wait.is_some() { publish.track() } else { publish }
}

/// The first status update of the job, as a server records it for a submission.
fn queued(arguments: &Arguments, id: &JobId, queue: String) -> StatusUpdate {
    let now = now_ms();
    let after = |duration: Duration| now.saturating_add(millis(duration));
    let at = arguments.at.map(|at| u64::try_from(at.as_millisecond()).unwrap_or(0));
    StatusUpdate {
        id: id.to_string(),
        job: arguments.job.clone(),
        queue,
        origin: None,
        label: arguments.label.clone(),
        priority: arguments.priority,
        attempt: 1,
        hop: 0,
        enqueued_at: Some(now),
        at: now,
        worker: None,
        step: Step::Queued { due: arguments.delay.map(after).or(at), expires: arguments.expires.map(after) },
    }
}
