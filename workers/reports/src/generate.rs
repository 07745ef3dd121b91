//! Generates one report or invoice, from the request to the file.

use std::{
    io::Seek,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use crate::{
    caption::Caption,
    dataset::{CsvFormat, Dataset, DatasetPosition},
    error::ReportError,
    invoice::GenerateInvoice,
    paths,
    plan::{self, QueryPlan},
    report::Report,
    request::{GenerateReport, ReportFormat},
    scan::Scan,
    table::ReportTable,
    unfinished::{ReportCheckpoint, UnfinishedReport},
    write,
};

/// The directories and limits of a reports worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reports {
    /// The directory of the data sets.
    pub data_dir: PathBuf,
    /// The directory of the reports; created if it is missing.
    pub output_dir: PathBuf,
    /// Maximum groups of one report, which limits its memory.
    pub max_groups: usize,
    /// Time after which the report of a job goes to the end of its queue and continues later.
    pub yield_every: Duration,
}

/// The result of a report job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GeneratedReport {
    /// Path of the report.
    pub path: PathBuf,
    /// Rows read from the data set.
    pub rows_read: u64,
    /// Rows skipped because a cell cannot be compared, added or ordered (with `on_error` set to `skip`).
    pub rows_skipped: u64,
    /// Rows in the report.
    pub rows: usize,
    /// The first letters that the font of a PDF lacks, each once; empty for other formats.
    pub missing_letters: String,
}

/// The result of an invoice job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GeneratedInvoice {
    /// Name of the file in the output directory.
    pub file: String,
    /// The first letters that the font lacks, each once.
    pub missing_letters: String,
}

/// The outcome of one attempt at a report.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReportPart {
    /// The report is on disk.
    Written(GeneratedReport),
    /// The report goes on from the checkpoint.
    Paused {
        /// Its position.
        checkpoint: ReportCheckpoint,
        /// The reason if it did not pause of itself: an error of the disk.
        error: Option<ReportError>,
    },
}

/// The means by which a caller steers a report.
struct Control<'c> {
    unfinished: Option<&'c UnfinishedReport>,
    checkpoint: Option<&'c ReportCheckpoint>,
    /// Gets the part of the data set that was read, from 0 to 1, and returns whether to pause.
    pause: &'c dyn Fn(f64) -> bool,
    cancelled: &'c dyn Fn() -> bool,
}

impl Reports {
    /// Writes the requested report, and replaces an earlier report of its name atomically.
    ///
    /// The same request on the same data writes the same bytes. `cancelled` is called every few thousand rows, and a last
    /// time before the earlier report is replaced.
    ///
    /// # Errors
    ///
    /// The request is wrong, a row of the data is wrong, or the disk fails; see [`ReportError::is_permanent`].
    pub fn generate(
        &self,
        request: &GenerateReport,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<GeneratedReport, ReportError> {
        let pause = |_| cancelled();
        match self.work(request, &Control { unfinished: None, checkpoint: None, pause: &pause, cancelled })? {
            ReportPart::Written(report) => Ok(report),
            ReportPart::Paused { error, .. } => Err(error.unwrap_or(ReportError::Cancelled)),
        }
    }

    /// Like [`generate`](Self::generate), for the report of one job, from its checkpoint if it has one. `pause` gets the
    /// part of the data set that was read, from 0 to 1, every few thousand rows. If it returns true, the figures are saved.
    ///
    /// # Errors
    ///
    /// As for `generate`. An error of the disk after the first row is in [`ReportPart::Paused`].
    pub fn generate_part(
        &self,
        request: &GenerateReport,
        (job_id, checkpoint): (&str, Option<&ReportCheckpoint>),
        pause: &dyn Fn(f64) -> bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<ReportPart, ReportError> {
        let unfinished = UnfinishedReport::new(&self.output_dir, job_id);
        let part = self.work(request, &Control { unfinished: Some(&unfinished), checkpoint, pause, cancelled });
        let goes_on = match &part {
            Ok(ReportPart::Paused { .. }) => true,
            Ok(ReportPart::Written(_)) => false,
            Err(error) => !error.is_permanent(),
        };
        if !goes_on {
            unfinished.delete();
        }
        part
    }

    /// Writes the invoice, and replaces an earlier one of its number atomically. The same invoice is the same bytes.
    ///
    /// # Errors
    ///
    /// The invoice is wrong, or the disk fails; see [`ReportError::is_permanent`].
    pub fn generate_invoice(
        &self,
        invoice: &GenerateInvoice,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<GeneratedInvoice, ReportError> {
        let date = invoice.check()?;
        let file = paths::output_name(&invoice.file_name(), ReportFormat::Pdf)?;
        let written = write::write_invoice(invoice, date, &self.output_dir, &file, cancelled)?;
        Ok(GeneratedInvoice { file, missing_letters: written.missing_letters })
    }

    fn work(&self, request: &GenerateReport, control: &Control<'_>) -> Result<ReportPart, ReportError> {
        let file_name = paths::output_name(&request.output, request.format)?;
        plan::check(request)?;
        let format = CsvFormat::new(&request.dialect.clone().unwrap_or_default())?;
        let source = paths::open_dataset(&self.data_dir, &request.dataset)?;
        let mut dataset = Dataset::new(&request.dataset, &source.file, &format)?;
        let plan = QueryPlan::new(request, dataset.header(), dataset.delimiter())?;
        let saved = control.unfinished.zip(control.checkpoint).and_then(|(file, at)| file.load(at, &source));
        let mut scan = match saved {
            Some(state) => {
                let failed = |error| ReportError::Read { name: request.dataset.clone(), source: error };
                (&source.file).rewind().map_err(failed)?;
                dataset.go_to(state.at, &source.file, &format)?;
                Scan::resume(state, &plan, self.max_groups)
            }
            None => Scan::new(&dataset, &plan, self.max_groups),
        };
        let paused = |scan: &Scan<'_>, error: Option<ReportError>| match control.unfinished {
            Some(file) => Ok(ReportPart::Paused { checkpoint: file.save(scan.state(), &source)?, error }),
            None => Err(error.unwrap_or(ReportError::Cancelled)),
        };
        let mut pause = |at: DatasetPosition| (control.pause)(at.byte as f64 / source.bytes.max(1) as f64);
        match scan.run(&mut dataset, &mut pause) {
            Ok(true) => {}
            Ok(false) => return paused(&scan, None),
            Err(error) if error.is_permanent() => return Err(error),
            Err(error) => return paused(&scan, Some(error)),
        }
        let scan = scan.finish();
        let (rows_read, rows_skipped) = (scan.rows, scan.skipped);
        let caption = Caption::new(request, &scan, source.modified);
        let report =
            Report { caption, table: ReportTable::new(request, &plan, scan), number_format: plan.number_format };
        let placed = write::write(&report, request.format, &self.output_dir, &file_name, control.cancelled)?;
        let (path, missing_letters) = (placed.path, placed.missing_letters);
        let rows = report.table.rows.len();
        Ok(ReportPart::Written(GeneratedReport { path, rows_read, rows_skipped, rows, missing_letters }))
    }
}

impl GeneratedReport {
    /// Returns the name of the file without its directory.
    #[must_use]
    pub fn file_name(&self) -> &Path {
        self.path.file_name().map_or(Path::new(""), Path::new)
    }
}
