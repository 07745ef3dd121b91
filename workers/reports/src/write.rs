//! Writes a report or an invoice into a file of the requested format.

mod atomic_file;
mod csv;
mod error;
mod formula;
mod pdf;
mod xlsx;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use jiff::civil::Date;

pub(crate) use self::atomic_file::AtomicFile;
use self::error::{WriteError, refuse_more_rows, stop_if};
use crate::{error::ReportError, invoice::GenerateInvoice, report::Report, request::ReportFormat};

/// A file that a writer has completed.
#[derive(Debug)]
pub(crate) struct WrittenFile {
    pub(crate) path: PathBuf,
    /// Letters that the font of a PDF lacks.
    pub(crate) missing_letters: String,
}

/// Writes the whole report, or leaves an earlier report of that name unchanged.
pub(crate) fn write(
    report: &Report,
    format: ReportFormat,
    output_dir: &Path,
    file_name: &str,
    cancelled: &dyn Fn() -> bool,
) -> Result<WrittenFile, ReportError> {
    let limit = match format {
        ReportFormat::Csv => usize::MAX,
        ReportFormat::Xlsx => xlsx::ROW_LIMIT,
        ReportFormat::Pdf => pdf::ROW_LIMIT,
    };
    refuse_more_rows(report, format, limit)?;
    replace(output_dir, file_name, cancelled, |file| match format {
        ReportFormat::Csv => csv::write(report, file, cancelled).map(|()| String::new()),
        ReportFormat::Xlsx => xlsx::write(report, file, output_dir, cancelled).map(|()| String::new()),
        ReportFormat::Pdf => pdf::write(report, file, cancelled),
    })
}

/// Writes the whole invoice as a PDF, or leaves an earlier one of that name unchanged.
pub(crate) fn write_invoice(
    invoice: &GenerateInvoice,
    date: Date,
    output_dir: &Path,
    file_name: &str,
    cancelled: &dyn Fn() -> bool,
) -> Result<WrittenFile, ReportError> {
    replace(output_dir, file_name, cancelled, |file| pdf::write_invoice(invoice, date, file, cancelled))
}

/// Replaces a file by what `write` writes. `write` returns the letters that a font lacks.
fn replace(
    output_dir: &Path,
    file_name: &str,
    cancelled: &dyn Fn() -> bool,
    write: impl FnOnce(&File) -> Result<String, WriteError>,
) -> Result<WrittenFile, ReportError> {
    let failed = |source| ReportError::Write { name: file_name.to_owned(), source };
    let file = AtomicFile::create(output_dir, file_name).map_err(failed)?;
    let missing_letters = write(file.file()).map_err(|failure| match failure {
        WriteError::Io(source) => failed(source),
        WriteError::Report(error) => error,
    })?;
    stop_if(cancelled)?;
    Ok(WrittenFile { path: file.publish().map_err(failed)?, missing_letters })
}
