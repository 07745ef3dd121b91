//! `leveret jobs`: tracked jobs in the server's store.

use std::time::Duration;

use clap::{Args, Subcommand};
use leveret::{Broker, Config, time::now_ms};
use leveret_serve::{
    Services,
    jobs::{CancelledWhile, Error, Status, Task},
};
use leveret_store::{Cursor, JobFilter};
use serde_json::json;

use super::{
    shared::{ActorArguments, StoreArguments, hidden_if_of_workers, reach},
    tracked::{failure, show, wait},
};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json, table};

/// Shows, awaits, cancels and retries tracked jobs
///
/// The server tracks jobs that were submitted to it over HTTP, and jobs that were published with --track. The command reads
/// the server's store; `cancel` and `retry` also require the broker.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Output format
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    `wait`: the job was dead-lettered or cancelled; `cancel`, `retry`: the state of the job does not allow it
  2    wrong usage
  3    the broker is unreachable or refuses publishes now
  4    an error of the program or its environment, such as an unreachable store
  5    no such job
  124  `wait`: the job did not end in time

Examples:
  leveret jobs list --status Failed
  leveret jobs show order-17
  leveret jobs wait order-17 --output json
  leveret jobs cancel order-17";

#[derive(Subcommand)]
enum Command {
    /// Lists jobs, the newest first
    List(List),
    /// Shows a job, with its timeline and its result
    Show(SingleJob),
    /// Waits for the end of a job, then shows it
    Wait(Wait),
    /// Cancels a waiting or running job
    Cancel(SingleJob),
    /// Runs a dead-lettered job again
    Retry(SingleJob),
}

#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
struct JobsOptions {
    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    config: Config,
}

#[derive(Args)]
struct List {
    /// Status: Pending, Scheduled, Processing, Retrying, Completed, Failed or Cancelled
    #[arg(long, value_name = "STATUS")]
    status: Option<Status>,

    /// Job name
    #[arg(long, value_name = "NAME")]
    job: Option<String>,

    /// Queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,

    /// Text in the label
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Maximum number of rows
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "NUMBER")]
    limit: u32,

    /// Cursor of the next page, as the previous page printed it
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,

    #[command(flatten)]
    common: JobsOptions,
}

#[derive(Args)]
struct SingleJob {
    /// The job's id
    id: String,

    #[command(flatten)]
    actor: ActorArguments,

    #[command(flatten)]
    common: JobsOptions,
}

#[derive(Args)]
struct Wait {
    /// The job's id
    id: String,

    /// Maximum time to wait
    #[arg(long, value_parser = leveret::duration, default_value = "5m", value_name = "DURATION")]
    timeout: Duration,

    #[command(flatten)]
    common: JobsOptions,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, output } = arguments;
    match command {
        Command::List(arguments) => list(arguments, output).await,
        Command::Show(SingleJob { id, common, .. }) => {
            let task = common.services().await?.task(&id).await.map_err(failure)?;
            show(&task, output)?;
            Ok(Exit::Success)
        }
        Command::Wait(Wait { id, timeout, common }) => wait(&common.services().await?, &id, timeout, output).await,
        Command::Cancel(SingleJob { id, actor, common }) => {
            reach(&common.config).await?.close().await;
            let was = common.services().await?.cancel(&id, &actor.actor).await;
            refused(was, |was| {
                let said = match was {
                    CancelledWhile::Queued => "The job was waiting and will not start.",
                    CancelledWhile::Running => "The job is running and was asked to stop; it may still succeed.",
                };
                done(output, &json!({ "id": id, "was": was }), said)
            })
        }
        Command::Retry(SingleJob { id, actor, common }) => {
            reach(&common.config).await?.close().await;
            let retried = common.services().await?.retry(&id, &actor.actor).await;
            refused(retried, |()| {
                done(output, &json!({ "id": id }), "The job will run again, starting with attempt 1.")
            })
        }
    }
}

async fn list(arguments: List, output: Format) -> Result<Exit, Failure> {
    let filter = JobFilter {
        job: arguments.job,
        queue: arguments.queue,
        label: arguments.label,
        ..arguments.status.map(|status| status.filter(now_ms())).unwrap_or_default()
    };
    let services = arguments.common.services().await?;
    let page = services.tasks(&filter, arguments.after.as_ref(), arguments.limit).await.map_err(failure)?;
    if output == Format::Json {
        print_json(&page)?;
        return Ok(Exit::Success);
    }
    let row = |task: &Task| {
        [
            one_line(&task.id, 64),
            task.status.to_string(),
            one_line(&task.job, 32),
            one_line(&task.queue, 32),
            task.attempt.to_string(),
            task.created_at.clone(),
            one_line(task.error.as_deref().unwrap_or(&task.name), 80),
        ]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    print(&table(["ID", "STATUS", "JOB", "QUEUE", "ATTEMPT", "CREATED", "ERROR OR LABEL"], &rows))?;
    if let Some(next) = page.next {
        notice!("More jobs: --after {next}");
    }
    Ok(Exit::Success)
}

impl JobsOptions {
    async fn services(&self) -> Result<Services, Failure> {
        let store = self.store.open().await?;
        let broker = Broker::amqp(self.config.clone()).map_err(|error| Failure::Usage(error.into()))?;
        Ok(Services::new(&broker, store))
    }
}

fn done(output: Format, document: &serde_json::Value, said: &str) -> anyhow::Result<()> {
    match output {
        Format::Json => print_json(document),
        Format::Table => print(&format!("{said}\n")),
    }
}

/// Ends with `Problems` if the state of the job does not allow the change: the command itself worked.
fn refused<T>(result: Result<T, Error>, done: impl FnOnce(T) -> anyhow::Result<()>) -> Result<Exit, Failure> {
    match result {
        Ok(value) => {
            done(value)?;
            Ok(Exit::Success)
        }
        Err(error @ (Error::Conflict { .. } | Error::NoLetter)) => {
            notice!("leveret: {error}");
            Ok(Exit::Problems)
        }
        Err(error) => Err(failure(error)),
    }
}
