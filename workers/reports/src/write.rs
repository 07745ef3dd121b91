//! Puts a report into a file of the format asked for.

mod atomic;
mod csv;
mod pdf;
mod xlsx;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{error::ReportError, report::Report, request::Format};

/// Writes the whole report, or leaves an earlier one of that name as it is.
pub(crate) fn write(
    report: &Report,
    format: Format,
    output_dir: &Path,
    file_name: &str,
    cancelled: &dyn Fn() -> bool,
) -> Result<PathBuf, ReportError> {
    let limit = match format {
        Format::Csv => usize::MAX,
        Format::Xlsx => xlsx::ROW_LIMIT,
        Format::Pdf => pdf::ROW_LIMIT,
    };
    let rows = report.table.rows.len();
    if rows > limit {
        return Err(ReportError::TooManyRows { format, rows, limit });
    }
    let failed = |source| ReportError::Write { name: file_name.to_owned(), source };
    let draft = atomic::Draft::create(output_dir, file_name).map_err(failed)?;
    let written: io::Result<()> = match format {
        Format::Csv => csv::write(report, draft.file()),
        Format::Xlsx => xlsx::write(report, draft.file(), output_dir),
        Format::Pdf => pdf::write(report, draft.file()),
    };
    written.map_err(failed)?;
    if cancelled() {
        return Err(ReportError::Cancelled);
    }
    draft.publish().map_err(failed)
}
