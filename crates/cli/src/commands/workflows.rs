//! `leveret workflows`: workflows in the server's store.

mod show;

use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use leveret::{Broker, Config, PublishError, workflow::StartError};
use leveret_serve::{
    Services,
    workflows::{Command as Change, Error, WorkflowStatus, WorkflowView, check, read},
};
use leveret_store::{Cursor, WorkflowFilter};
use serde_json::json;

use self::show::ShowFormat;
use super::shared::{
    ActorArguments, StoreArguments, UNREADABLE, broker, catalogue, contents, hidden_if_of_workers, reach,
};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json, table};

/// Starts, shows, awaits and changes workflows
///
/// `start` requires the broker alone. It checks the definition, with its jobs and their payloads, against the catalogue
/// where workers announce their jobs. The other commands read the server's store; those that change a workflow also
/// require the broker. The server (`leveret serve`) runs workflows.
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
  1    `wait`: the workflow has failed or was cancelled; other commands: the state of the workflow does not allow it
  2    wrong usage, such as a definition with a cycle, or a payload that violates the schema of its job
  3    the broker is unreachable or refuses publishes now
  4    an error of the program or its environment, such as an unreachable store
  5    no such workflow or step
  124  `wait`: the workflow did not end in time

Examples:
  leveret workflows start order.json
  leveret workflows list --status Waiting
  leveret workflows show order-17 --format svg > order-17.svg
  leveret workflows retry order-17 --step charge";

#[derive(Subcommand)]
enum Command {
    /// Starts a workflow
    Start(Start),
    /// Lists workflows, the newest first
    List(List),
    /// Shows a workflow with its steps, also as a picture
    Show(Show),
    /// Waits for the end of a workflow, also of one that no server has read from the broker yet, then shows it
    Wait(Wait),
    /// Cancels waiting and running steps, then compensates the steps that have succeeded
    Cancel(SingleWorkflow),
    /// Runs failed steps again
    Retry(SomeSteps),
    /// Lets a workflow go on without failed steps
    Skip(SomeSteps),
    /// Starts no further steps
    Pause(SingleWorkflow),
    /// Starts steps again
    Resume(SingleWorkflow),
}

#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
struct WorkflowOptions {
    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    config: Config,
}

#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
struct Start {
    /// File with the definition as JSON; `-` is standard input
    file: String,

    #[command(flatten)]
    config: Config,
}

#[derive(Args)]
struct List {
    /// Status: Pending, Running, Waiting, Completed, Failed or Cancelled
    #[arg(long, value_name = "STATUS")]
    status: Option<WorkflowStatus>,

    /// Name of the workflows
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Label and its text
    #[arg(long, value_name = "NAME=TEXT", value_parser = label)]
    label: Option<(String, String)>,

    /// Maximum number of rows
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "NUMBER")]
    limit: u32,

    /// Cursor of the next page, as the previous page printed it
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,

    #[command(flatten)]
    common: WorkflowOptions,
}

#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
struct Show {
    /// The workflow's id
    id: String,

    /// Format of the workflow, also as a picture; that of --output by default
    #[arg(long, value_enum, conflicts_with = "output")]
    format: Option<ShowFormat>,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    config: Config,
}

#[derive(Args)]
struct SingleWorkflow {
    /// The workflow's id
    id: String,

    #[command(flatten)]
    actor: ActorArguments,

    #[command(flatten)]
    common: WorkflowOptions,
}

#[derive(Args)]
struct SomeSteps {
    /// Only the failed jobs of this step; by default those of all steps
    #[arg(long, value_name = "NAME")]
    step: Option<String>,

    #[command(flatten)]
    single: SingleWorkflow,
}

#[derive(Args)]
struct Wait {
    /// The workflow's id
    id: String,

    /// Maximum time to wait
    #[arg(long, value_parser = leveret::duration, default_value = "5m", value_name = "DURATION")]
    timeout: Duration,

    #[command(flatten)]
    common: WorkflowOptions,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, output } = arguments;
    match command {
        Command::Start(arguments) => start(arguments, output).await,
        Command::List(arguments) => list(arguments, output).await,
        Command::Show(show) => {
            let services = services(&show.store, &show.config).await?;
            let workflow = services.workflow(&show.id).await.map_err(failure)?;
            show::print_workflow(&workflow, show.format(output))?;
            Ok(Exit::Success)
        }
        Command::Wait(arguments) => wait(arguments, output).await,
        Command::Cancel(single) => change(single, Change::Cancel, "The workflow is cancelled.", output).await,
        Command::Retry(SomeSteps { step, single }) => {
            let said = "The failed jobs will run again, starting with attempt 1.";
            change(single, Change::Retry(step), said, output).await
        }
        Command::Skip(SomeSteps { step, single }) => {
            change(single, Change::Skip(step), "The workflow goes on without the failed jobs.", output).await
        }
        Command::Pause(single) => change(single, Change::Pause, "No further steps start.", output).await,
        Command::Resume(single) => change(single, Change::Resume, "Steps start again.", output).await,
    }
}

async fn start(arguments: Start, output: Format) -> Result<Exit, Failure> {
    let Start { file, config } = arguments;
    let invalid = |error: anyhow::Error| Failure::Usage(error.context(file.clone()));
    let bytes = contents(&file).await?;
    let text = std::str::from_utf8(&bytes).map_err(|error| invalid(error.into()))?;
    let mut workflow = read(text).map_err(|error| refused(error, invalid))?;
    let broker = broker(&config).await?;
    let (catalogue, is_read) = catalogue(&broker).await;
    if is_read {
        check(&catalogue, &workflow).await.map_err(|error| refused(error, invalid))?;
        workflow.fill_queues(|job| catalogue.find(job).map(|entry| entry.queue.clone()));
    } else {
        workflow.check_queues().map_err(|error| invalid(anyhow!(error).context(UNREADABLE)))?;
        notice!("Not checked: {UNREADABLE}.");
    }
    let started = broker.publisher().fail_fast().start(&workflow).await;
    broker.close().await;
    let id = started.map_err(|error| match error {
        StartError::Workflow(error) => invalid(error.into()),
        StartError::Publish(error @ PublishError::Uncertain { .. }) => Failure::Unreachable(error.into()),
        StartError::Publish(error) => error.into(),
        other => Failure::Other(anyhow!(other)),
    })?;
    match output {
        Format::Json => print_json(&json!({ "workflow_id": id }))?,
        Format::Table => print(&format!("{}\n", one_line(&id, 128)))?,
    }
    Ok(Exit::Success)
}

async fn list(arguments: List, output: Format) -> Result<Exit, Failure> {
    let filter = WorkflowFilter {
        status: arguments.status.map(|status| status.to_string()),
        name: arguments.name,
        label: arguments.label,
    };
    let services = arguments.common.services().await?;
    let page = services.workflows(&filter, arguments.after.as_ref(), arguments.limit).await.map_err(failure)?;
    if output == Format::Json {
        print_json(&page)?;
        return Ok(Exit::Success);
    }
    let row = |workflow: &WorkflowView| {
        let waiting = workflow.queue.clone().or_else(|| workflow.waiting_for.clone());
        [
            one_line(&workflow.id, 64),
            workflow.status.to_string(),
            one_line(&workflow.name, 32),
            workflow.created_at.clone(),
            one_line(&waiting.or_else(|| workflow.error.clone()).unwrap_or_default(), 80),
        ]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    print(&table(["ID", "STATUS", "NAME", "CREATED", "WAITS FOR OR ERROR"], &rows))?;
    if let Some(next) = page.next {
        notice!("More workflows: --after {next}");
    }
    Ok(Exit::Success)
}

async fn wait(arguments: Wait, output: Format) -> Result<Exit, Failure> {
    let Wait { id, timeout, common } = arguments;
    let (services, deadline) = (common.services().await?, Instant::now() + timeout);
    let workflow = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match services.wait_for_workflow(&id, left).await {
            // It may still be in the broker. Each call waits a moment for it.
            Err(Error::NotFound { .. }) if !left.is_zero() => {}
            waited => break waited.map_err(failure)?,
        }
    };
    show::print_workflow(&workflow, output.into())?;
    Ok(match workflow.status {
        WorkflowStatus::Completed => Exit::Success,
        WorkflowStatus::Failed | WorkflowStatus::Cancelled => Exit::Problems,
        WorkflowStatus::Pending | WorkflowStatus::Running | WorkflowStatus::Waiting => Exit::TimedOut,
    })
}

/// Ends with `Problems` if the state of the workflow does not allow the change: the command itself worked.
async fn change(arguments: SingleWorkflow, change: Change, said: &str, output: Format) -> Result<Exit, Failure> {
    let SingleWorkflow { id, actor, common } = arguments;
    reach(&common.config).await?.close().await;
    match common.services().await?.command_workflow(&id, change, &actor.actor).await {
        Ok(()) => {
            match output {
                Format::Json => print_json(&json!({ "workflow_id": id }))?,
                Format::Table => print(&format!("{said}\n"))?,
            }
            Ok(Exit::Success)
        }
        Err(error @ Error::Conflict { .. }) => {
            notice!("leveret: {error}");
            Ok(Exit::Problems)
        }
        Err(error) => Err(failure(error)),
    }
}

impl Show {
    fn format(&self, output: Format) -> ShowFormat {
        self.format.unwrap_or(output.into())
    }
}

impl WorkflowOptions {
    async fn services(&self) -> Result<Services, Failure> {
        services(&self.store, &self.config).await
    }
}

async fn services(store: &StoreArguments, config: &Config) -> Result<Services, Failure> {
    let store = store.open().await?;
    let broker = Broker::amqp(config.clone()).map_err(|error| Failure::Usage(error.into()))?;
    Ok(Services::new(&broker, store))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, text) = text.split_once('=').ok_or("it must have the form NAME=TEXT, such as tenant=acme")?;
    Ok((name.to_owned(), text.to_owned()))
}

/// Reports all errors of a definition with their places.
fn refused(error: Error, invalid: impl Fn(anyhow::Error) -> Failure) -> Failure {
    let Error::Invalid { field_errors } = error else { return failure(error) };
    let mut shown = Vec::new();
    for error in &field_errors {
        let place = if error.pointer.is_empty() { String::new() } else { format!("{}: ", error.pointer) };
        shown.push(place + &error.detail);
    }
    invalid(anyhow!(shown.join("; ")))
}

/// Sorts an error by exit code.
fn failure(error: Error) -> Failure {
    match error {
        Error::NotFound { .. } | Error::NoStep { .. } => Failure::NotFound(error.into()),
        Error::Store(error) => error.into(),
        other => Failure::Other(anyhow!(other)),
    }
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, error::ErrorKind};

    use super::*;

    fn shown(line: &str) -> Result<ShowFormat, ErrorKind> {
        let program = Arguments::augment_args(clap::Command::new("workflows"));
        let matches = program.try_get_matches_from(line.split(' ')).map_err(|error| error.kind())?;
        let Arguments { command, output } = Arguments::from_arg_matches(&matches).map_err(|error| error.kind())?;
        let Command::Show(show) = command else { panic!("{line} shows a workflow") };
        Ok(show.format(output))
    }

    #[test]
    fn a_workflow_is_shown_in_the_output_format_of_all_commands_or_in_one_of_its_own() {
        for (line, format) in [
            ("workflows show w1", Ok(ShowFormat::Table)),
            ("workflows show w1 --output json", Ok(ShowFormat::Json)),
            ("workflows --output json show w1", Ok(ShowFormat::Json)),
            ("workflows show w1 --format json", Ok(ShowFormat::Json)),
            ("workflows show w1 --format svg", Ok(ShowFormat::Svg)),
            ("workflows show w1 --output json --format svg", Err(ErrorKind::ArgumentConflict)),
        ] {
            assert_eq!(shown(line), format, "{line}");
        }
    }
}
