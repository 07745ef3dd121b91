//! `leveret`: the command line of Leveret.
//!
//! * `commands`: one module for each command; `commands::doctor` is the first.
//! * `management`: RabbitMQ's HTTP API. `output`: what all commands print, their errors and exit codes.

mod commands;
mod management;
mod output;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::{
    commands::Command,
    output::{Exit, Failure},
};

/// Looks after the queues, dead letters and topology of Leveret's workers.
#[derive(Parser)]
#[command(name = "leveret", version, propagate_version = true)]
struct Leveret {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let Leveret { command } = Leveret::parse();
    match run(command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("leveret: {:#}", failure.error());
            failure.exit().into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    let telemetry = command.telemetry().map(|telemetry| telemetry.init("leveret"));
    let _telemetry = telemetry.transpose().map_err(|error| Failure::Usage(error.into()))?;
    runtime(command.is_parallel())?.block_on(command.run())
}

fn runtime(parallel: bool) -> Result<Runtime, Failure> {
    let mut builder = if parallel { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    Ok(builder.enable_all().build().context("starting the runtime")?)
}
