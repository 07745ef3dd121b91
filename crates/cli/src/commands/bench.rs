//! `leveret bench`: how fast Leveret is here, next to consumers written by hand. What it does is in `benches/`.

use leveret_bench::{Arguments, Output};

use crate::output::{Exit, Failure, Progress, print, print_json};

pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let output = arguments.output;
    let progress = Progress::new();
    let Some(report) = leveret_bench::run(arguments, move |what| progress.show(what)).await? else {
        return Ok(Exit::Well);
    };
    match output {
        Output::Table => print(&report.to_string())?,
        Output::Json => print_json(&report)?,
    }
    Ok(if report.has_regressed() { Exit::Problems } else { Exit::Well })
}
