//! The fault suite: a load of real processes on a real broker, one fault after the other, and an audit of every job.
//!
//! `make faults` runs it whole and `make test` in a shorter form; the method is in the README.md beside this file.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a test runner of its own")]

mod actor;
mod books;
mod fault;
mod finish;
mod prober;
mod recovery;
mod report;
mod scenarios;
mod stage;
mod watch;

use std::{panic::AssertUnwindSafe, process::ExitCode, time::Duration};

use clap::Parser;
use futures_util::FutureExt;
use leveret_harness::{Cable, Node, NodeOptions};

use crate::{
    report::{Outcome, Report, print_summary},
    scenarios::{SCENARIOS, Scenario},
    stage::{Size, Stage},
};

/// Runs the fault scenarios: publishers and workers as processes, a fault, and an audit of every job
#[derive(Debug, Parser)]
#[command(mut_args(leveret::setting))]
struct Arguments {
    /// Only the scenarios whose names contain one of these
    filters: Vec<String>,
    /// Repeats the load and the faults of a run that printed this seed
    #[arg(long, env = "LEVERET_FAULTS_SEED")]
    seed: Option<u64>,
    /// The long form: more than a million jobs, heartbeats of ten seconds
    #[arg(long, env = "LEVERET_FAULTS_FULL")]
    full: bool,
    /// The least number of jobs in each scenario
    #[arg(long)]
    jobs: Option<u64>,
    /// Shows the names of the scenarios
    #[arg(long)]
    list: bool,
    /// Also writes the figures to this file, as JSON lines
    #[arg(long, env = "LEVERET_FAULTS_OUTPUT")]
    output: Option<std::path::PathBuf>,
}

/// The one scenario that only root can run.
const PACKETS: &str = "packets_are_dropped";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filters = &arguments.filters;
    let wanted = |scenario: &&Scenario| filters.is_empty() || filters.iter().any(|part| scenario.name.contains(part));
    let mut chosen: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    if arguments.list {
        chosen.iter().for_each(|scenario| println!("{:28} {}", scenario.name, scenario.about));
        return ExitCode::SUCCESS;
    }
    if !Cable::is_possible() {
        // Printed, and not counted.
        chosen.retain(|scenario| scenario.name != PACKETS);
        println!("left out: {PACKETS}, because only root may lay a network cable");
    }
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut size = if arguments.full { Size::full() } else { Size::short() };
    size.jobs = arguments.jobs.unwrap_or(size.jobs);
    println!("running {} scenarios, seed {seed} (--seed {seed} repeats them)", chosen.len());
    let mut reports = Vec::new();
    let mut node = None;
    for scenario in chosen {
        let outcome = run(scenario, &mut node, seed, &size).await;
        reports.push(Report { scenario: scenario.name, seed, outcome });
    }
    let written = arguments.output.map_or(Ok(()), |path| report::write(&path, &reports));
    let failed = print_summary(&reports) > 0;
    if let Err(error) = &written {
        eprintln!("error: the figures were not written: {error}");
    }
    if failed || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs a scenario on the node of the earlier ones. A failure may leave the node in any state, so it is replaced then.
async fn run(scenario: &Scenario, node: &mut Option<Node>, seed: u64, size: &Size) -> Outcome {
    print!("test {} ... ", scenario.name);
    std::io::Write::flush(&mut std::io::stdout()).ok();
    let running = match node.take() {
        Some(node) => node,
        None => Node::start(NodeOptions::default()).await,
    };
    let mut stage = Stage::new(scenario.name, &running, seed, size.clone());
    let running_it = AssertUnwindSafe((scenario.run)(&mut stage)).catch_unwind();
    let result = match tokio::time::timeout(Duration::from_secs(1_200), running_it).await {
        Ok(Ok(result)) => result,
        // The harness reports its failures in a panic.
        Ok(Err(_)) => Err(anyhow::anyhow!("panicked, see above")),
        Err(_) => Err(anyhow::anyhow!("not over within 20 minutes")),
    };
    match result {
        Ok(()) => {
            let figures = stage.figures();
            drop(stage);
            *node = Some(running);
            println!("ok  {}", figures.line());
            Outcome::Passed(figures)
        }
        Err(error) => {
            println!("FAILED\n    {error:#}\n{}", stage.transcript());
            Outcome::Failed { error: format!("{error:#}"), figures: stage.figures() }
        }
    }
}
