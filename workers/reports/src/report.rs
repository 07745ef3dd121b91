//! The content of a report, independent of the format of its file.

use crate::{caption::Caption, number_format::NumberFormat, table::ReportTable};

/// A report as the writers read it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) caption: Caption,
    pub(crate) table: ReportTable,
    /// The format of numbers in the data set.
    pub(crate) number_format: NumberFormat,
}
