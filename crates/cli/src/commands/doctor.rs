//! `leveret doctor`: looks at a broker and says what keeps Leveret's workers from keeping their promises there.
//!
//! Looking and judging are apart: [`gather`] asks the broker and writes down [`facts`], [`checks`] are pure functions
//! from these to [`finding`]s, and [`report`] shows them. It changes nothing on the broker, but for one thing: reading
//! dead letters counts as a delivery of each.

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
        Format::Json => print_document(&report.json().context("the report as JSON")?)?,
    }
    Ok(if gathered.is_err() { Exit::Unreachable } else { report.exit() })
}
