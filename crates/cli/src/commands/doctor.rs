//! `leveret doctor`: finds faults of a broker's setup that break the promises of Leveret's workers.
//!
//! [`gather`] reads the [`facts`] from the broker. [`checks`] are pure functions from facts to [`finding`]s. [`report`]
//! prints the findings. The doctor changes nothing on the broker, with one exception: reading a dead letter counts as a
//! delivery.

mod arguments;
mod checks;
mod facts;
mod finding;
mod gather;
mod report;

use anyhow::Context;

pub(crate) use self::arguments::Arguments;
use self::report::DoctorReport;
use crate::output::{Exit, Failure, Format, Progress, print, print_document};

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let progress = Progress::new();
    let gathered = gather::gather(&arguments, &progress).await?;
    drop(progress);
    let report = match &gathered {
        Ok(facts) => DoctorReport::new(facts, checks::check(facts)),
        Err(unreached) => DoctorReport::unreached(&arguments.config, unreached),
    };
    match arguments.output {
        Format::Table => print(&report.table())?,
        Format::Json => print_document(&report.json().context("encoding the report as JSON")?)?,
    }
    Ok(if gathered.is_err() { Exit::Unreachable } else { report.exit() })
}
