//! `leveret`: the command line of Leveret.
//!
//! * `commands`: one module for each command; `commands::doctor` is the first.
//! * `management`: RabbitMQ's HTTP API. `output`: what all commands print, their errors and exit codes.

mod commands;
mod management;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;

/// Looks after the queues, dead letters and topology of Leveret's workers.
#[derive(Parser)]
#[command(name = "leveret", version, propagate_version = true)]
struct Leveret {
    #[command(subcommand)]
    command: Command,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Leveret { command } = Leveret::parse();
    match command.run().await {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("leveret: {:#}", failure.error());
            failure.exit().into()
        }
    }
}
