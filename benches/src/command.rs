//! The command: which scenarios run, how often, and where.

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

/// Measures jobs per second, CPU time per job and latency, next to consumers written by hand
///
/// Each scenario runs the framework and consumers written by hand on lapin in turn, round after round, as processes of
/// their own, on a private RabbitMQ node that is started for it, or on the broker of an address: of that one it uses
/// queues whose names begin with leveret-bench, which it deletes, and the exchanges and queues that all workers share.
/// Ratios are taken within a round. All of it takes about half an hour; --quick takes a tenth of the jobs.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP, mut_args(leveret::setting))]
pub struct Arguments {
    /// What to measure; without any, everything
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,

    /// The broker to measure on, such as `amqp://guest:guest@localhost:5672`; without one a private node is started
    #[arg(long, env = "AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Option<String>,

    /// How often each contestant runs
    #[arg(long, default_value = "5", value_name = "ROUNDS", value_parser = clap::value_parser!(u16).range(1..=100))]
    repetitions: u16,

    /// Only the tables whose title contains this, such as "quorum queue, prefetch 100"
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,

    /// A tenth of the jobs: to see that it works, not how fast
    #[arg(long)]
    quick: bool,

    /// Where to keep the profiles of `instructions`, for `callgrind_annotate`
    #[arg(long, value_name = "FOLDER")]
    profiles: Option<PathBuf>,

    /// How to print the figures
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

/// How figures are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people
    Table,
    /// One JSON document for programs
    Json,
}

/// Runs what was asked for; `progress` is told what goes on. None if this process is a child, which has said all itself.
///
/// # Errors
///
/// If the broker cannot be used, a child process fails, or a consumer leaves jobs behind.
pub async fn run(arguments: Arguments, progress: impl Fn(&str) + 'static) -> Result<Option<Report>> {
    if let Some(assignment) = arguments.child {
        child::work(&assignment).await?;
        return Ok(None);
    }
    let mut wanted = arguments.scenarios;
    if wanted.is_empty() {
        wanted = Scenario::value_variants().to_vec();
    }
    progress("starting");
    let needs_broker = wanted.iter().any(|scenario| scenario.needs_broker());
    let broker = if needs_broker { Some(Broker::find(arguments.amqp_url).await?) } else { None };
    let disk = broker.as_ref().map_or_else(std::env::temp_dir, |broker| broker.disk().to_owned());
    let machine = Machine::look(&disk);
    let repetitions = usize::from(arguments.repetitions);
    let bench = Bench {
        broker,
        repetitions,
        only: arguments.only,
        quick: arguments.quick,
        profiles: arguments.profiles,
        progress: Box::new(progress),
    };
    let mut tables = Vec::new();
    for scenario in wanted {
        tables.extend(scenarios::run(scenario, &bench).await?);
    }
    tables.retain(|table| !table.rows.is_empty());
    anyhow::ensure!(!tables.is_empty(), "no table has {:?} in its title", bench.only);
    let broker = bench.broker.as_ref().map(|broker| broker.version().to_owned());
    let targets = targets::judge(&tables);
    Ok(Some(Report { broker, machine, tables, targets }))
}
