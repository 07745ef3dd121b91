//! The reports worker: jobs on the queue `reports` write reports as CSV, XLSX or PDF files, and invoices as PDF files.
//!
//! In reading order: [`worker`] registers the [`jobs`]; [`generate`] takes one request (`request`) through its steps.
//! `paths` resolves file names, `plan` checks the request, `dataset` reads rows, `filter` applies the filters, `scan`
//! groups the rows (with `aggregate`, the exact `decimal` and the `number_format`), `unfinished` keeps the groups of a report
//! that pauses, `table` sorts and limits the groups, `caption` writes the text around the table, and `write` writes the file. An
//! [`invoice`] takes the last step alone.
//!
//! # Outcomes
//!
//! | what happens | outcome |
//! |---|---|
//! | the report is complete on disk under its name | done |
//! | the request or the data is wrong: an unknown column, a name outside the directories, a row with too few cells, a misplaced quotation mark, `12o` instead of a number, too many groups or columns | dead letter that names row, column and value |
//! | the invoice is wrong: no lines, a total that is not their sum, a number that is no file name | dead letter that names the field |
//! | a read or write on disk fails | retried by the queue's policy, and read on from where it failed |
//! | it takes longer than `REPORTS_YIELD_EVERY`, or the worker stops | it goes to the end of its queue, and is read on from there, with no attempt charged |
//!
//! The worker writes a report to a temporary file and renames it, so a reader sees the old report or the new one. The same
//! job on the same data writes the same bytes, so a second run does no harm.
//!
//! The figures of a report that pauses are in a hidden file in the output directory, so workers that share the queue should
//! share that directory. A worker that does not find the file starts the report again.
//!
//! # Data sets
//!
//! A data set is a CSV file as in RFC 4180, in UTF-8, with numbers such as `-1234.5`. The field `dialect` of the request
//! states another delimiter, quotation mark, encoding or number format. The worker detects a byte order mark (UTF-8,
//! UTF-16), a first line such as `sep=;`, and a header that is separated by semicolons, tabs or bars only.
//! A quotation mark inside an unquoted cell is an error that names the row.
//!
//! # Figures
//!
//! Sums are exact to 38 digits, of which at most 20 are decimals: 0.1 + 0.2 is 0.3. A number that does not fit is an error.
//! A cell that cannot be compared, added or ordered as the request asks fails the report. With `"on_error": "skip"` the
//! worker skips its row. The report and the job's result state the number of skipped rows.
//! Memory grows with the number of groups, which is limited, and not with the data set.
//!
//! # Formats
//!
//! | format | numbers | text | limits |
//! |---|---|---|---|
//! | CSV | with all decimals | an apostrophe precedes text that a spreadsheet would run as a formula | none |
//! | XLSX | number cells; text if a number cell would change the value (16 digits or more, `1.50` as a group) | text cells, which do not run | 1,048,574 rows, 16,384 columns, 32,767 characters a cell |
//! | PDF | rounded, with commas | DejaVu Sans: Latin, Greek, Cyrillic, Armenian, Georgian; the page and the job's result name letters that the font lacks | 5,000 rows; figures that do not fit one page continue on further pages, with at most 20,000 rows in total |

mod aggregate;
mod caption;
mod column;
mod dataset;
mod date;
mod decimal;
#[cfg(test)]
mod decimal_tests;
pub mod error;
mod filter;
pub mod generate;
pub mod invoice;
pub mod jobs;
mod number_format;
mod paths;
mod plan;
mod report;
pub mod request;
mod scan;
#[cfg(test)]
mod scan_tests;
mod settings;
mod table;
#[cfg(test)]
mod table_tests;
mod unfinished;
mod write;

use std::time::Duration;

use leveret::{Queue, Worker};

pub use self::{
    error::ReportError,
    generate::{GeneratedInvoice, GeneratedReport, ReportPart, Reports},
    invoice::{GenerateInvoice, InvoiceLine},
    request::GenerateReport,
    settings::ReportSettings,
    unfinished::ReportCheckpoint,
};

/// Time limit of one report, enough for tens of gigabytes: one core reads 100 to 300 MB a second.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Returns the worker of the queue `reports`, which writes up to `concurrency` reports and invoices at the same time.
#[must_use]
pub fn worker(reports: Reports, concurrency: u16) -> Worker<Reports> {
    let queue = Queue::of::<GenerateReport>().concurrency(concurrency).timeout(TIMEOUT);
    Worker::new(reports).queue(queue).handle_blocking(jobs::generate_report).handle_blocking(jobs::generate_invoice)
}
