//! `leveret queues`: queues with their depth, consumers and rates.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, anyhow};
use clap::Args;
use leveret::{
    Broker, Config,
    probe::{Depth, Probe, Refusal},
    topology::{DEAD, HIGH, LOW, SUSPECT, Topology},
};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::shared::{announced, hidden_if_of_workers, reach};
use crate::{
    management::Management,
    output::{Exit, Failure, Format, notice, print, print_json, table},
};

/// Shows each queue with its ready jobs, consumers and dead letters
///
/// The list contains the queues that workers announced, and those named with --queue.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_of_workers), mut_args(leveret::setting))]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: Config,

    /// Additional queue
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,

    /// RabbitMQ's management API, for rates: `http://user:password@host:15672`; without a login, that of `AMQP_URL` is used
    #[arg(long, env = "LEVERET_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    management_url: Option<String>,

    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

const AFTER_HELP: &str = "\
READY counts jobs that wait for a worker. SUSPECT counts jobs that were redelivered too often without an outcome and run \
one at a time. DEAD counts dead letters in the broker; `leveret serve` ingests them into its store, where `leveret dead \
list` shows them. IN and DONE are published and acknowledged jobs per second.

Exit codes:
  0    done
  2    wrong usage
  3    the broker is unreachable
  4    an error of the program or its environment
  5    a queue named with --queue does not exist

Examples:
  leveret queues
  leveret queues --queue email --management-url http://127.0.0.1:15672
  leveret queues --output json";

#[derive(Serialize)]
struct QueuesReport {
    queues: Vec<QueueRow>,
    /// Messages in the delay ladder, which all queues share.
    delayed: u64,
    /// Messages whose queue no longer exists.
    unrouted: u64,
}

#[derive(Serialize)]
struct QueueRow {
    queue: String,
    /// `None` if the queue does not exist.
    ready: Option<u32>,
    consumers: Option<u32>,
    suspect: u32,
    dead: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
}

#[derive(Clone, Serialize)]
struct Rates {
    unacknowledged: u64,
    published_per_second: f64,
    acked_per_second: f64,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let mut probe = reach(&arguments.config).await?;
    let names = names(&arguments).await?;
    let mut lines = Vec::new();
    for name in names {
        lines.push(line(&mut probe, name).await?);
    }
    let topology = Topology::new(&arguments.config.namespace);
    let mut delayed = 0;
    for level in topology.levels() {
        delayed += u64::from(ready(&mut probe, &level).await?);
    }
    let unrouted = ready(&mut probe, &topology.unrouted()).await?.into();
    if let Some(url) = &arguments.management_url {
        add_rates(url, &probe, &arguments.config, &mut lines).await?;
    }
    probe.close().await;
    let missing = lines.iter().any(|line| line.ready.is_none() && arguments.queues.contains(&line.queue));
    let report = QueuesReport { queues: lines, delayed, unrouted };
    match arguments.output {
        Format::Json => print_json(&report)?,
        Format::Table => print(&report.table())?,
    }
    Ok(if missing { Exit::NotFound } else { Exit::Success })
}

async fn names(arguments: &Arguments) -> Result<BTreeSet<String>, Failure> {
    let broker = Broker::amqp(arguments.config.clone()).map_err(|error| Failure::Usage(error.into()))?;
    let entries = match announced(&broker).await {
        Ok(entries) => entries,
        Err(failure) if arguments.queues.is_empty() => return Err(failure),
        Err(failure) => {
            notice!("Showing only the queues named with --queue: {}.", failure.error());
            Vec::new()
        }
    };
    let of_workers = entries.iter().flat_map(|entry| {
        let lanes: &[&str] = if entry.lanes { &["", HIGH, LOW] } else { &[""] };
        lanes.iter().map(|lane| format!("{}{lane}", entry.queue))
    });
    let names = of_workers.chain(arguments.queues.iter().cloned()).collect();
    broker.close().await;
    Ok(names)
}

async fn line(probe: &mut Probe, queue: String) -> Result<QueueRow, Failure> {
    let depth = depth(probe, &queue).await?;
    // A priority lane has none of its own: it shares those of its queue.
    let suspect = ready(probe, &format!("{queue}{SUSPECT}")).await?;
    let dead = ready(probe, &format!("{queue}{DEAD}")).await?;
    let (ready, consumers) = depth.map(|depth| (depth.ready, depth.consumers)).unzip();
    Ok(QueueRow { queue, ready, consumers, suspect, dead, rates: None })
}

async fn depth(probe: &mut Probe, queue: &str) -> Result<Option<Depth>, Failure> {
    match probe.depth(queue).await {
        Ok(depth) => Ok(Some(depth)),
        Err(Refusal::Missing) => Ok(None),
        Err(refusal) => Err(anyhow::Error::from(refusal).context(format!("queue {queue:?}")).into()),
    }
}

async fn ready(probe: &mut Probe, queue: &str) -> Result<u32, Failure> {
    Ok(depth(probe, queue).await?.map_or(0, |depth| depth.ready))
}

async fn add_rates(url: &str, probe: &Probe, config: &Config, lines: &mut [QueueRow]) -> Result<(), Failure> {
    let api = Management::new(url, probe.login(), config.tls_ca.as_deref());
    let api = api.map_err(|error| Failure::Usage(error.into()))?;
    let (api, vhost) = (Arc::new(api), probe.vhost().to_owned());
    let asked = spawn_blocking(move || api.queues(&vhost)).await.context("asking the management API")?;
    let queues = asked.map_err(|error| anyhow!(error))?;
    for line in lines {
        let found = queues.iter().find(|queue| queue.name == line.queue);
        line.rates = found.map(|queue| Rates {
            unacknowledged: queue.messages_unacknowledged,
            published_per_second: queue.message_stats.publish.rate,
            acked_per_second: queue.message_stats.ack.rate,
        });
    }
    Ok(())
}

impl QueuesReport {
    fn table(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let rate = |line: &QueueRow, of: fn(&Rates) -> f64| {
            line.rates.as_ref().map_or_else(|| "-".to_owned(), |rates| format!("{:.1}", of(rates)))
        };
        let row = |line: &QueueRow| {
            [
                line.queue.clone(),
                number(line.ready),
                number(line.consumers),
                line.suspect.to_string(),
                line.dead.to_string(),
                rate(line, |rates| rates.published_per_second),
                rate(line, |rates| rates.acked_per_second),
            ]
        };
        let rows: Vec<_> = self.queues.iter().map(row).collect();
        let nothing = "No worker has announced a job on this broker and namespace yet; --queue shows any queue.\n";
        if rows.is_empty() && self.delayed + self.unrouted == 0 {
            return nothing.to_owned();
        }
        let table = table(["QUEUE", "READY", "CONSUMERS", "SUSPECT", "DEAD", "IN", "DONE"], &rows);
        format!("{table}\n{} delayed, {} unrouted\n", self.delayed, self.unrouted)
    }
}
