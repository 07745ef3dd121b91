//! One report from request to file, step by step; the rest of the engine in the order it is used.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    caption::Caption,
    dataset::{CsvFormat, Dataset},
    error::ReportError,
    paths,
    plan::{self, Plan},
    report::Report,
    request::GenerateReport,
    scan::scan,
    table::ReportTable,
    write,
};

/// Where reports come from and go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reports {
    /// The directory of the data sets.
    pub data_dir: PathBuf,
    /// The directory of the reports; made when it is missing.
    pub output_dir: PathBuf,
    /// The most groups of one report, which bounds its memory.
    pub max_groups: usize,
}

/// A report that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GeneratedReport {
    /// The file.
    pub path: PathBuf,
    /// Rows of the data set that were read.
    pub rows_read: u64,
    /// Rows that were left out because a cell could not be compared, added or ordered (`on_error` is `skip`).
    pub rows_skipped: u64,
    /// Rows in the report.
    pub rows: usize,
    /// The first letters that the font of a PDF lacks, each once; empty for other formats.
    pub missing_letters: String,
}

impl Reports {
    /// Writes the report that is asked for, and replaces an earlier one of its name, all or nothing.
    ///
    /// The same request over the same data writes the same bytes. `cancelled` is asked every few thousand rows, and a
    /// last time before the earlier report is replaced.
    ///
    /// # Errors
    /// Says what is wrong with the request or which row and column of the data is; see [`ReportError::is_permanent`].
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
        let plan = Plan::new(request, dataset.header(), dataset.delimiter())?;
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
    /// The file's name, for logs.
    #[must_use]
    pub fn file_name(&self) -> &Path {
        self.path.file_name().map_or(Path::new(""), Path::new)
    }
}
