//! Puts a report into a file of the format asked for.

mod atomic_file;
mod csv;
mod formula;
mod pdf;
mod xlsx;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{error::ReportError, generate::Report, request::Format};

/// A report that is in its place.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) path: PathBuf,
    /// The letters that it could not show.
    pub(crate) missing_letters: String,
}

/// Why a format was not written.
#[derive(Debug)]
enum Failure {
    Disk(io::Error),
    Report(ReportError),
}

/// How many rows are written between two looks at whether the attempt is to stop.
const ROWS_PER_LOOK: usize = 4096;

/// Writes the whole report, or leaves an earlier one of that name as it is.
pub(crate) fn write(
    report: &Report,
    format: Format,
    output_dir: &Path,
    file_name: &str,
    cancelled: &dyn Fn() -> bool,
) -> Result<Placed, ReportError> {
    let limit = match format {
        Format::Csv => usize::MAX,
        Format::Xlsx => xlsx::ROW_LIMIT,
        Format::Pdf => pdf::ROW_LIMIT,
    };
    refuse_more_rows(report, format, limit)?;
    let failed = |source| ReportError::Write { name: file_name.to_owned(), source };
    let draft = atomic_file::Draft::create(output_dir, file_name).map_err(failed)?;
    let written = match format {
        Format::Csv => csv::write(report, draft.file(), cancelled).map(|()| String::new()),
        Format::Xlsx => xlsx::write(report, draft.file(), output_dir, cancelled).map(|()| String::new()),
        Format::Pdf => pdf::write(report, draft.file(), cancelled),
    };
    let missing_letters = written.map_err(|failure| match failure {
        Failure::Disk(source) => failed(source),
        Failure::Report(error) => error,
    })?;
    stop_if(cancelled)?;
    Ok(Placed { path: draft.publish().map_err(failed)?, missing_letters })
}

fn refuse_more_rows(report: &Report, format: Format, limit: usize) -> Result<(), ReportError> {
    let rows = report.table.rows.len();
    if rows > limit { Err(ReportError::TooManyRows { format, rows, limit }) } else { Ok(()) }
}

fn stop_if(cancelled: &dyn Fn() -> bool) -> Result<(), ReportError> {
    if cancelled() { Err(ReportError::Cancelled) } else { Ok(()) }
}

/// Asks whether to stop with every so many rows, the first not among them.
fn stop_at_row(row: usize, cancelled: &dyn Fn() -> bool) -> Result<(), ReportError> {
    if row > 0 && row.is_multiple_of(ROWS_PER_LOOK) { stop_if(cancelled) } else { Ok(()) }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Self {
        Self::Report(error)
    }
}
