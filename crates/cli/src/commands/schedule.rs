//! `leveret schedule`: lists schedules, and publishes the job of one now.

use anyhow::anyhow;
use clap::{Args, Subcommand};
use leveret::{
    Config,
    probe::{Probe, Refusal},
    schedule::{Token, tokens},
    time::{now_ms, unix_ms},
    topology::Topology,
};
use leveret_store::time::to_rfc3339;
use serde::{Serialize, Serializer};
use serde_json::json;

use super::shared::{broker, hidden_if_of_workers, reach, time};
use crate::output::{Exit, Failure, Format, notice, print, print_json, table};

/// Lists schedules, or publishes the job of one now
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
    /// Lists schedules with their next and last run in UTC and their leader
    List,
    /// Asks the leader of a schedule to publish its job now, in addition to its times; without a worker, once one starts
    Run {
        /// Name of the schedule
        name: String,
    },
}

const AFTER_HELP: &str = "\
The list contains every schedule that a worker has led. Without a worker a schedule has no leader, and NEXT is the time \
from which it continues when a worker starts. `run` prints the id of the job.

Exit codes:
  0    done
  2    wrong usage
  3    the broker is unreachable
  4    an error of the program or its environment
  5    no worker has led a schedule of that name

Examples:
  leveret schedule list
  leveret schedule run digest";

#[derive(Serialize)]
struct ScheduleRow {
    schedule: String,
    expression: String,
    zone: String,
    job: String,
    queue: String,
    #[serde(serialize_with = "as_rfc3339")]
    next_fire: Option<u64>,
    #[serde(serialize_with = "as_rfc3339")]
    last_fire: Option<u64>,
    /// `None` if no worker has the schedule now.
    leader: Option<String>,
    workers: u32,
}

fn as_rfc3339<S: Serializer>(ms: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    ms.map(to_rfc3339).serialize(to)
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::List => list(&arguments).await,
        Command::Run { name } => run_now(&arguments, name).await,
    }
}

async fn list(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut probe = reach(&arguments.config).await?;
    let topology = Topology::new(&arguments.config.namespace);
    let mut lines = Vec::new();
    if workers(&mut probe, &topology.schedules()).await?.is_some() {
        let broker = broker(&arguments.config).await?;
        let tokens = tokens(&broker).await.map_err(|error| Failure::Other(error.into()))?;
        broker.close().await;
        for token in tokens {
            // A deleted queue means a deleted schedule.
            if let Some(workers) = workers(&mut probe, &topology.schedule(&token.schedule)).await? {
                lines.push(line(token, workers));
            }
        }
    }
    probe.close().await;
    match arguments.output {
        Format::Json => print_json(&lines)?,
        Format::Table => print(&shown(&lines))?,
    }
    Ok(Exit::Success)
}

/// The number of consumers of a queue, `None` if it does not exist.
async fn workers(probe: &mut Probe, queue: &str) -> Result<Option<u32>, Failure> {
    match probe.depth(queue).await {
        Ok(depth) => Ok(Some(depth.consumers)),
        Err(Refusal::Missing) => Ok(None),
        Err(refusal) => Err(anyhow::Error::from(refusal).context(format!("queue {queue:?}")).into()),
    }
}

fn line(token: Token, workers: u32) -> ScheduleRow {
    let [next_fire, last_fire] = [token.next_fire(), token.last_fire()].map(|at| at.map(unix_ms));
    let Token { schedule, expression, zone, job, queue, leader, .. } = token;
    let leader = (workers > 0).then_some(leader);
    ScheduleRow { schedule, expression, zone, job, queue, next_fire, last_fire, leader, workers }
}

fn shown(lines: &[ScheduleRow]) -> String {
    if lines.is_empty() {
        return "No worker with a schedule has run on this broker and namespace yet.\n".to_owned();
    }
    let now = now_ms();
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            let next = line.next_fire.map_or_else(|| "-".to_owned(), time);
            let overdue = if line.next_fire.is_some_and(|next| next < now) { " (overdue)" } else { "" };
            [
                line.schedule.clone(),
                line.expression.clone(),
                line.zone.clone(),
                line.job.clone(),
                format!("{next}{overdue}"),
                line.last_fire.map_or_else(|| "-".to_owned(), time),
                line.workers.to_string(),
                line.leader.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    table(["SCHEDULE", "EXPRESSION", "ZONE", "JOB", "NEXT", "LAST", "WORKERS", "LEADER"], &rows)
}

async fn run_now(arguments: &Arguments, name: &str) -> Result<Exit, Failure> {
    let mut probe = reach(&arguments.config).await?;
    let queue = Topology::new(&arguments.config.namespace).schedule(name);
    let Some(workers) = workers(&mut probe, &queue).await? else {
        return Err(Failure::NotFound(anyhow!("no worker has led a schedule {name:?}")));
    };
    probe.close().await;
    let broker = broker(&arguments.config).await?;
    let id = broker.publisher().run_schedule(name).await?;
    broker.close().await;
    if workers == 0 {
        notice!("No worker has this schedule now: the job will be published once one starts.");
    }
    match arguments.output {
        Format::Json => print_json(&json!({ "id": id.as_str(), "workers": workers }))?,
        Format::Table => print(&format!("{id}\n"))?,
    }
    Ok(Exit::Success)
}
