//! One report from request to file, step by step; the rest of the engine in the order it is used.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    caption::Caption,
    dataset::Dataset,
    error::ReportError,
    place,
    plan::{self, Plan},
    request::GenerateReport,
    scan::scan,
    table::Table,
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
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Rows of the data set that were read.
    pub rows_read: u64,
    /// Rows in the report.
    pub rows: usize,
}

/// A report as the writers see it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) caption: Caption,
    pub(crate) table: Table,
}

impl Reports {
    /// Writes the report that is asked for, and replaces an earlier one of its name, all or nothing.
    ///
    /// The same request over the same data writes the same bytes. `cancelled` is asked every few thousand rows, and a
    /// last time before the earlier report is replaced.
    ///
    /// # Errors
    /// Says what is wrong with the request or which row and column of the data is; see [`ReportError::is_permanent`].
    pub fn generate(&self, request: &GenerateReport, cancelled: &dyn Fn() -> bool) -> Result<Written, ReportError> {
        let file_name = place::output_name(&request.output, request.format)?;
        plan::check(request)?;
        let source = place::open_dataset(&self.data_dir, &request.dataset)?;
        let mut dataset = Dataset::new(&request.dataset, source.file)?;
        let plan = Plan::new(request, dataset.header())?;
        let scan = scan(&mut dataset, &plan, self.max_groups, cancelled)?;
        let (rows_read, caption) = (scan.rows, Caption::new(request, &scan, source.modified));
        let report = Report { caption, table: Table::new(request, &plan, scan) };
        let path = write::write(&report, request.format, &self.output_dir, &file_name, cancelled)?;
        Ok(Written { path, rows_read, rows: report.table.rows.len() })
    }
}

impl Written {
    /// The file's name, for logs.
    #[must_use]
    pub fn file_name(&self) -> &Path {
        self.path.file_name().map_or(Path::new(""), Path::new)
    }
}
