//! Generates one report, from the request to the file.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    caption::Caption,
    dataset::{CsvFormat, Dataset},
    error::ReportError,
    paths,
    plan::{self, QueryPlan},
    report::Report,
    request::GenerateReport,
    scan::scan,
    table::ReportTable,
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
        let file_name = paths::output_name(&request.output, request.format)?;
        plan::check(request)?;
        let format = CsvFormat::new(&request.dialect.clone().unwrap_or_default())?;
        let source = paths::open_dataset(&self.data_dir, &request.dataset)?;
        let mut dataset = Dataset::new(&request.dataset, source.file, &format)?;
        let plan = QueryPlan::new(request, dataset.header(), dataset.delimiter())?;
        let scan = scan(&mut dataset, &plan, self.max_groups, cancelled)?;
        let (rows_read, rows_skipped) = (scan.rows, scan.skipped);
        let caption = Caption::new(request, &scan, source.modified);
        let report =
            Report { caption, table: ReportTable::new(request, &plan, scan), number_format: plan.number_format };
        let placed = write::write(&report, request.format, &self.output_dir, &file_name, cancelled)?;
        let (path, missing_letters) = (placed.path, placed.missing_letters);
        Ok(GeneratedReport { path, rows_read, rows_skipped, rows: report.table.rows.len(), missing_letters })
    }
}

impl GeneratedReport {
    /// Returns the name of the file without its directory.
    #[must_use]
    pub fn file_name(&self) -> &Path {
        self.path.file_name().map_or(Path::new(""), Path::new)
    }
}
