//! Errors that every format shares, and the checks for a cancelled attempt.

use std::io;

use crate::{error::ReportError, report::Report, request::ReportFormat};

/// Error of a writer: the disk's, or the report's own.
#[derive(Debug)]
pub(super) enum WriteError {
    Io(io::Error),
    Report(ReportError),
}

/// Rows written between two checks for cancellation.
const ROWS_PER_CHECK: usize = 4096;

pub(super) fn refuse_more_rows(report: &Report, format: ReportFormat, limit: usize) -> Result<(), ReportError> {
    let rows = report.table.rows.len();
    if rows > limit { Err(ReportError::TooManyRows { format, rows, limit }) } else { Ok(()) }
}

pub(super) fn stop_if(cancelled: &dyn Fn() -> bool) -> Result<(), ReportError> {
    if cancelled() { Err(ReportError::Cancelled) } else { Ok(()) }
}

/// Checks for cancellation every [`ROWS_PER_CHECK`] rows, but not at the first row.
pub(super) fn stop_at_row(row: usize, cancelled: &dyn Fn() -> bool) -> Result<(), ReportError> {
    if row > 0 && row.is_multiple_of(ROWS_PER_CHECK) { stop_if(cancelled) } else { Ok(()) }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ReportError> for WriteError {
    fn from(error: ReportError) -> Self {
        Self::Report(error)
    }
}
