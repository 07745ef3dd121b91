//! The reports worker: jobs on the queue `reports` become CSV, XLSX or PDF files.
//!
//! In reading order: [`worker`] registers the [`jobs`]; [`report`] takes one request (`request`) through its steps:
//! `place` finds its files, `plan` checks it, `dataset` reads rows, `filter` picks them, `scan` reduces them (with
//! `aggregate` and the exact `decimal`), `table` orders the result, `caption` words it, `write` puts it into a file.
//!
//! # What becomes of a job
//!
//! | what happened | outcome |
//! |---|---|
//! | the report is on disk, whole and under its name | done |
//! | the request or the data is wrong: an unknown column, a name that leads out of the directories, a row with a cell too few or `12o` where a number belongs, too many groups | dead letter, which names row, column and value |
//! | the disk does not read or write; the attempt is told to stop | retried by the queue's policy |
//!
//! A report is written to a temporary file and renamed, so a reader sees the old one or the new one. The same job over
//! the same data writes the same bytes, so running it twice does no harm.
//!
//! # What to expect of the figures
//!
//! Sums are of decimals as they are written, exact to 38 digits: 0.1 + 0.2 is 0.3.
//! Memory grows with the number of groups, which is bounded, and not with the data set.

mod aggregate;
mod caption;
mod dataset;
mod decimal;
#[cfg(test)]
mod decimal_tests;
pub mod error;
mod filter;
pub mod jobs;
mod place;
mod plan;
pub mod report;
pub mod request;
mod scan;
#[cfg(test)]
mod scan_tests;
mod settings;
mod table;
#[cfg(test)]
mod table_tests;
mod write;

use std::time::Duration;

use leveret::{Queue, Worker};

pub use self::{
    error::ReportError,
    report::{Reports, Written},
    request::GenerateReport,
    settings::ReportSettings,
};

/// How long one report may take: at the 100 to 300 MB a second of one core, tens of gigabytes.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// The worker of the queue `reports`, which makes `concurrency` reports at once.
#[must_use]
pub fn worker(reports: Reports, concurrency: u16) -> Worker<Reports> {
    let queue = Queue::new("reports").concurrency(concurrency).timeout(TIMEOUT);
    Worker::new(reports).queue(queue).handle_blocking(jobs::generate_report)
}
