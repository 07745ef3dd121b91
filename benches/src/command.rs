//! The options of the program, and a run of it.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    bench::Bench,
    broker::Broker,
    child,
    machine::Machine,
    report::Report,
    scenarios::{self, Scenario},
    targets,
};

/// Measures jobs per second, CPU time per job and latency, compared with consumers written by hand
///
/// Each scenario runs the framework and consumers written by hand on lapin in turn, in several rounds, each as a process of
/// its own. Ratios are computed within a round. The program starts a private RabbitMQ node, or uses the broker at --amqp-url.
/// There it creates and deletes queues whose names begin with leveret-bench, and declares the exchanges and queues that all
/// workers share. A full run takes about half an hour; --quick runs a tenth of the jobs.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP, mut_args(leveret::setting))]
pub struct Arguments {
    /// Scenarios to measure; all by default
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,

    /// Address of the broker, such as `amqp://guest:guest@localhost:5672`; by default a private node is started
    #[arg(long, env = "AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Option<String>,

    /// Number of runs of each contestant
    #[arg(long, default_value = "5", value_name = "ROUNDS", value_parser = clap::value_parser!(u16).range(1..=100))]
    repetitions: u16,

    /// Select tables whose title contains this text, such as "quorum queue, prefetch 100"
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,

    /// Run a tenth of the jobs, to test the benchmark itself
    #[arg(long)]
    quick: bool,

    /// Worker of benches/user, built with cargo's default profile, whose instructions are counted too
    #[arg(long, value_name = "PROGRAM")]
    user_build: Option<PathBuf>,

    /// Folder for the profiles of `instructions`, for `callgrind_annotate`
    #[arg(long, value_name = "FOLDER")]
    profiles: Option<PathBuf>,

    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    pub output: Output,

    #[arg(long, hide = true)]
    child: Option<String>,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  everything was measured and no gating target was missed
  1  a gating target was missed: stub and instructions, which do not depend on a broker
  2  wrong usage
  4  the measurement failed

Examples:
  leveret-bench drain publish
  leveret-bench --repetitions 3 --output json > figures.json
  leveret-bench stub instructions        (needs no broker; instructions needs valgrind)
";

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people
    Table,
    /// One JSON document for programs
    Json,
}

/// Runs the selected scenarios and calls `progress` with the current one. Returns `None` in a child process, which writes
/// its own output.
///
/// # Errors
///
/// If the broker is unusable, a child process fails, or a consumer leaves jobs in its queue.
pub async fn run(arguments: Arguments, progress: impl Fn(&str) + 'static) -> Result<Option<Report>> {
    if let Some(assignment) = arguments.child {
        child::work(&assignment).await?;
        return Ok(None);
    }
    let mut selected = arguments.scenarios;
    if selected.is_empty() {
        selected = Scenario::value_variants().to_vec();
    }
    progress("starting");
    let needs_broker = selected.iter().any(|scenario| scenario.needs_broker());
    let broker = if needs_broker { Some(Broker::find(arguments.amqp_url).await?) } else { None };
    let disk = broker.as_ref().map_or_else(std::env::temp_dir, |broker| broker.disk().to_owned());
    let machine = Machine::inspect(&disk);
    let repetitions = usize::from(arguments.repetitions);
    let bench = Bench {
        broker,
        repetitions,
        only: arguments.only,
        quick: arguments.quick,
        user_build: arguments.user_build,
        profiles: arguments.profiles,
        progress: Box::new(progress),
    };
    let mut tables = Vec::new();
    for scenario in selected {
        tables.extend(scenarios::run(scenario, &bench).await?);
    }
    tables.retain(|table| !table.rows.is_empty());
    anyhow::ensure!(!tables.is_empty(), "no title of a table contains {:?}", bench.only);
    let broker = bench.broker.as_ref().map(|broker| broker.version().to_owned());
    let targets = targets::judge(&tables);
    Ok(Some(Report { broker, machine, tables, targets }))
}
