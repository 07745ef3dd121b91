//! A report as comma-separated values: titles, rows, nothing else, figures in full and plain.
//!
//! Text that a spreadsheet would run as a formula gets an apostrophe in front (see `formula`), because these files are
//! opened in spreadsheets and their text comes from whoever fed the data set. The XLSX has such text unchanged: its text
//! cells are never run.

use std::{borrow::Cow, fs::File, io::Write};

use super::{Failure, formula::harmless, stop_at_row};
use crate::{number_format::Notation, generate::Report, table::Cell};

/// Writes titles and rows; the total is left out, so that whoever adds up a column counts nothing twice.
pub(super) fn write(report: &Report, file: &File, cancelled: &dyn Fn() -> bool) -> Result<(), Failure> {
    let failed = |error| Failure::Disk(csv::Error::into(error));
    let mut csv = csv::Writer::from_writer(file);
    let titles = report.table.columns.iter().map(|column| harmless(&column.title, &report.notation).into_owned());
    csv.write_record(titles).map_err(failed)?;
    for (at, row) in report.table.rows.iter().enumerate() {
        stop_at_row(at, cancelled)?;
        csv.write_record(row.iter().map(|cell| text(cell, &report.notation).into_owned())).map_err(failed)?;
    }
    let mut file = csv.into_inner().map_err(csv::IntoInnerError::into_error)?;
    Ok(file.flush()?)
}

fn text<'c>(cell: &'c Cell, notation: &Notation) -> Cow<'c, str> {
    match cell {
        Cell::Text(text) | Cell::Date(_, text) => harmless(text, notation),
        Cell::Number(number) => number.to_string().into(),
        Cell::Empty => "".into(),
    }
}
