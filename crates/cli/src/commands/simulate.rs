//! `leveret simulate`: predicts the number of workers and the wait of jobs. The model is in `crates/simulate/`.

mod arguments;
mod search;
mod table;

use anyhow::anyhow;

pub(crate) use self::arguments::Arguments;
use crate::output::{Exit, Failure, Format, Progress, print, print_json};

/// The largest simulation. More jobs would take minutes.
const MOST_JOBS: f64 = 2e7;

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    if let Some(problem) = arguments.times_problem() {
        return Err(Failure::Usage(anyhow!(problem)));
    }
    let expected = arguments.expected_jobs();
    if expected > MOST_JOBS {
        let most = "at most 20 million";
        return Err(Failure::Usage(anyhow!(
            "the load has about {expected:.0} jobs, but {most} can be simulated: set a shorter --for"
        )));
    }
    let progress = Progress::new();
    let found = search::rows(&arguments, |workers| progress.show(&format!("{workers} workers")));
    drop(progress);
    match arguments.output {
        Format::Json => print_json(&found)?,
        Format::Table => print(&table::text(&found, &arguments))?,
    }
    let is_answered = !arguments.is_search() || found.fewest.is_some();
    Ok(if is_answered { Exit::Success } else { Exit::Problems })
}
