//! The reports worker: jobs on the queue `reports` become CSV, XLSX or PDF files.
//!
//! In reading order: [`worker`] registers the [`jobs`]; [`report`] takes one request (`request`) through its steps:
//! `place` finds its files, `plan` checks it, `dataset` reads rows, `filter` picks them, `scan` reduces them (with
//! `aggregate`, the exact `decimal` and the `notation` of numbers), `table` orders the result, `caption` words it,
//! `write` puts it into a file.
//!
//! # What becomes of a job
//!
//! | what happened | outcome |
//! |---|---|
//! | the report is on disk, whole and under its name | done |
//! | the request or the data is wrong: an unknown column, a name that leads out of the directories, a row with a cell too few, a quotation mark out of place, `12o` where a number belongs, too many groups or columns | dead letter, which names row, column and value |
//! | the disk does not read or write; the attempt is told to stop | retried by the queue's policy |
//!
//! A report is written to a temporary file and renamed, so a reader sees the old one or the new one. The same job over
//! the same data writes the same bytes, so running it twice does no harm.
//!
//! # Data sets
//!
//! A data set is a CSV file as RFC 4180 describes it, in UTF-8, with numbers such as `-1234.5`. The field `dialect` of the
//! request names another delimiter, quotation mark, encoding or notation of numbers. The worker itself recognises a byte
//! order mark (UTF-8, UTF-16), a first line `sep=;`, and a header that is separated by semicolons, tabs or bars alone.
//! A quotation mark inside an unquoted cell is an error that names the row.
//!
//! # Figures
//!
//! Sums are of decimals as they are written, exact to 38 digits, of which at most 20 are decimals: 0.1 + 0.2 is 0.3. A
//! number that does not fit is an error. A cell that cannot be compared, added or
//! ordered as the request asks fails the report. With `"on_error": "skip"` its row counts in no figure; the report and the
//! job's result say how many rows were skipped.
//! Memory grows with the number of groups, which is bounded, and not with the data set.
//!
//! # Formats
//!
//! | format | numbers | text | limits |
//! |---|---|---|---|
//! | CSV | in full | an apostrophe precedes text that a spreadsheet would run as a formula | none |
//! | XLSX | number cells; text where a cell would not give the value back exactly (16 digits or more, `1.50` as a group) | text cells, never run | 1,048,574 rows, 16,384 columns, 32,767 characters a cell |
//! | PDF | as people read them | DejaVu Sans: Latin, Greek, Cyrillic, Armenian, Georgian; the page and the job's result name letters that the font lacks | 5,000 rows; more figures than a page is wide continue on further pages, of at most 20,000 rows together |

mod aggregate;
mod caption;
mod dataset;
mod date;
mod decimal;
#[cfg(test)]
mod decimal_tests;
pub mod error;
mod filter;
pub mod jobs;
mod notation;
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
    let queue = Queue::of::<GenerateReport>().concurrency(concurrency).timeout(TIMEOUT);
    Worker::new(reports).queue(queue).handle_blocking(jobs::generate_report)
}
