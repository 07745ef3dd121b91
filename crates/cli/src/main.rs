//! `leveret`: the command line of Leveret.
//!
//! * `commands`: one module for each command; `commands::doctor` is the first.
//! * `management`: RabbitMQ's HTTP API. `output`: what all commands print, their errors and exit codes.

#![deny(clippy::print_stderr, reason = "output::notice! escapes what others wrote, and outlives a closed pipe")]

mod commands;
mod management;
mod output;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use tokio::runtime::{Builder, Runtime};

use crate::{
    commands::{Command, GlobalArguments},
    output::{Exit, Failure, notice, written},
};

/// Looks after the queues, dead letters and topology of Leveret's workers.
#[derive(Parser)]
#[command(name = "leveret", version, propagate_version = true, after_help = AFTER_HELP)]
struct Leveret {
    #[command(flatten)]
    _global: GlobalArguments,

    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
The broker is that of AMQP_URL, amqp://guest:guest@127.0.0.1:5672/%2f if it says nothing else. `jobs`, `audit` and, without \
--direct, `dead` ask the store of `leveret serve` (DATABASE_URL); `outbox` and `inbox` work on a database of yours. The options \
of the broker's connection (--amqp-url, --namespace and those beginning with --tls) may stand before or after any command. Data \
for programs (--output json) has its times as RFC 3339.

A reader that closes standard output early is no error; output that cannot be written (a full disk) is, with exit code 4.

Examples:
  leveret publish email.send --payload '{\"to\": \"ada@example.com\"}'   publishes a job
  leveret queues                                        shows what waits, and who consumes it
  leveret dead list --direct --queue email              shows what was given up, and why
  leveret dead replay --direct --queue email            brings it back
  leveret doctor --management-url http://mq:15672       says what is wrong with the broker

`leveret help COMMAND` says all about one of them.";

fn main() -> ExitCode {
    let Leveret { command, .. } = match Leveret::try_parse() {
        Ok(leveret) => leveret,
        Err(error) => return said(&error),
    };
    match run(command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            notice!("leveret: {:#}", failure.error());
            failure.exit().into()
        }
    }
}

/// Writes what clap has to say: help and version on standard output, wrong usage on standard error.
fn said(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| io::stdout().flush());
    if error.use_stderr() {
        return Exit::Usage.into();
    }
    match written(printed) {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            notice!("leveret: {error:#}");
            Exit::Failed.into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    let telemetry = command.telemetry().map(|telemetry| telemetry.init("leveret"));
    let _telemetry = telemetry.transpose().map_err(|error| Failure::Usage(error.into()))?;
    let runtime = runtime(command.is_parallel())?;
    let ended = runtime.block_on(command.run(Leveret::command()));
    // A thread that blocks, in a look-up for example, must not keep the process.
    runtime.shutdown_background();
    ended
}

fn runtime(parallel: bool) -> Result<Runtime, Failure> {
    let mut builder = if parallel { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    Ok(builder.enable_all().build().context("starting the runtime")?)
}
