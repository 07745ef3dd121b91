//! `leveret-bench`: measures Leveret next to consumers and publishers written by hand (`make bench`, `make bench-gate`).

use std::process::ExitCode;

use clap::Parser;
use leveret_bench::{Arguments, Output, run};

#[derive(Parser)]
#[command(name = "leveret-bench", version)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

/// A gating target was missed.
const REGRESSION: u8 = 1;
/// The measurement failed.
const FAILED: u8 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    let Program { arguments } = Program::parse();
    match measure(arguments).await {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("leveret-bench: {error:#}");
            FAILED.into()
        }
    }
}

#[expect(clippy::print_stdout, reason = "the report is this program's output")]
async fn measure(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let output = arguments.output;
    let Some(report) = run(arguments, |what| eprintln!("{what} …")).await? else { return Ok(ExitCode::SUCCESS) };
    match output {
        Output::Table => println!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(if report.has_regressed() { REGRESSION.into() } else { ExitCode::SUCCESS })
}
