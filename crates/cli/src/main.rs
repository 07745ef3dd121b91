//! `leveret`: the command line of Leveret.
//!
//! * `commands`: one module for each command.
//! * `management`: a client of RabbitMQ's HTTP API.
//! * `output`: printing, errors and exit codes.

#![deny(clippy::print_stderr, reason = "output::notice! escapes foreign text and survives a closed pipe")]

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

/// Operates Leveret: publishes jobs, inspects queues, replays dead letters, runs the server.
#[derive(Parser)]
#[command(name = "leveret", version, propagate_version = true, after_help = AFTER_HELP)]
struct Leveret {
    #[command(flatten)]
    _global: GlobalArguments,

    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Commands connect to the broker at AMQP_URL, by default amqp://guest:guest@127.0.0.1:5672/%2f. `jobs`, `audit` and `dead` \
(without --direct) read the store of `leveret serve` at DATABASE_URL. `outbox`, `inbox` and `projections` work on your own database. The \
connection options (--amqp-url, --namespace, --tls-*) may stand before or after any command. JSON output (--output json) \
contains RFC 3339 times.

A reader that closes standard output early is not an error. Output that cannot be written, as on a full disk, ends the command \
with exit code 4.

Examples:
  leveret publish email.send --payload '{\"to\": \"ada@example.com\"}'   publishes a job
  leveret queues                                        shows queues with their jobs and consumers
  leveret dead list --direct --queue email              lists dead letters with their errors
  leveret dead replay --direct --queue email            publishes them again
  leveret doctor --management-url http://mq:15672       finds faults of the broker's setup

`leveret help COMMAND` describes a command.";

fn main() -> ExitCode {
    let Leveret { command, .. } = match Leveret::try_parse() {
        Ok(leveret) => leveret,
        Err(error) => return print_usage(&error),
    };
    match run(command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            notice!("leveret: {:#}", failure.error());
            failure.exit().into()
        }
    }
}

/// Prints clap's message: help and version on standard output, wrong usage on standard error.
fn print_usage(error: &clap::Error) -> ExitCode {
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
    // A blocked thread, in a DNS query for example, must not delay the exit.
    runtime.shutdown_background();
    ended
}

fn runtime(parallel: bool) -> Result<Runtime, Failure> {
    let mut builder = if parallel { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    Ok(builder.enable_all().build().context("starting the runtime")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_format_is_an_option_of_all_commands_of_a_group() {
        let program = Leveret::command();
        for group in program.get_subcommands().filter(|group| group.has_subcommands()) {
            let name = group.get_name();
            let output = |command: &clap::Command| {
                command.get_arguments().find(|argument| argument.get_id() == "output").map(clap::Arg::is_global_set)
            };
            // `topology export` has formats of its own.
            let expected = (name != "topology").then_some(true);
            assert_eq!(output(group), expected, "{name}");
            assert!(group.get_subcommands().all(|command| output(command).is_none()), "{name}");
        }
    }

    #[test]
    fn the_output_format_stands_before_or_after_a_subcommand() {
        for line in [
            "leveret dead --output json list",
            "leveret dead list --output json",
            "leveret jobs --output json show t1",
            "leveret outbox --output json status --database own.db",
            "leveret inbox status --database own.db --output json",
            "leveret events --output json list",
        ] {
            assert!(Leveret::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        assert!(Leveret::try_parse_from("leveret dead show 1 --raw --output json".split(' ')).is_err());
    }
}
