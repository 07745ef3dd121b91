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

use crate::{commands::Command, output::Failure};

/// Looks after the queues, dead letters and topology of Leveret's workers.
#[derive(Parser)]
#[command(name = "leveret", version, propagate_version = true)]
struct Leveret {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let Leveret { command } = Leveret::parse();
    let result = runtime(command.is_parallel()).and_then(|runtime| runtime.block_on(command.run()));
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("leveret: {:#}", failure.error());
            failure.exit().into()
        }
    }
}

fn runtime(parallel: bool) -> Result<Runtime, Failure> {
    let mut builder = if parallel { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    Ok(builder.enable_all().build().context("starting the runtime")?)
}
