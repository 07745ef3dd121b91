//! `leveret bench` without the rest of the command, which takes minutes to build: `make bench-gate`.

use std::process::ExitCode;

use clap::Parser;
use leveret_bench::{Arguments, run};

/// As `leveret bench`
#[derive(Parser)]
enum Program {
    Bench(Box<Arguments>),
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it is what this prints")]
async fn main() -> anyhow::Result<ExitCode> {
    let Program::Bench(arguments) = Program::parse();
    let Some(report) = run(*arguments, |what| eprintln!("{what} …")).await? else { return Ok(ExitCode::SUCCESS) };
    println!("{report}");
    Ok(if report.has_regressed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
