//! Writes a report as comma-separated values: titles and rows, figures with all their decimals.
//!
//! Spreadsheets open these files, and the text comes from the data set. Text that a spreadsheet would run as a formula
//! therefore gets an apostrophe in front (see `formula`). An XLSX keeps such text unchanged, because its text cells do not
//! run.

use std::{borrow::Cow, fs::File, io::Write};

use super::{
    error::{WriteError, stop_at_row},
    formula::harmless,
};
use crate::{number_format::NumberFormat, report::Report, table::ReportCell};

/// Writes titles and rows without the total, so that the sum of a column is correct.
pub(super) fn write(report: &Report, file: &File, cancelled: &dyn Fn() -> bool) -> Result<(), WriteError> {
    let failed = |error| WriteError::Io(csv::Error::into(error));
    let mut csv = csv::Writer::from_writer(file);
    let titles = report.table.columns.iter().map(|column| harmless(&column.title, &report.number_format).into_owned());
    csv.write_record(titles).map_err(failed)?;
    for (at, row) in report.table.rows.iter().enumerate() {
        stop_at_row(at, cancelled)?;
        csv.write_record(row.iter().map(|cell| text(cell, &report.number_format).into_owned())).map_err(failed)?;
    }
    let mut file = csv.into_inner().map_err(csv::IntoInnerError::into_error)?;
    Ok(file.flush()?)
}

fn text<'c>(cell: &'c ReportCell, number_format: &NumberFormat) -> Cow<'c, str> {
    match cell {
        ReportCell::Text(text) | ReportCell::Date(_, text) => harmless(text, number_format),
        ReportCell::Number(number) => number.to_string().into(),
        ReportCell::Empty => "".into(),
    }
}
