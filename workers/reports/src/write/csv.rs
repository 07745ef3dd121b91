//! A report as comma-separated values: titles, rows, nothing else, figures in full and plain.
//!
//! Text that a spreadsheet would run as a formula (it begins with `=`, `+`, `-`, `@`, a tab or a carriage return) gets
//! an apostrophe in front, because these files are opened in spreadsheets and their text comes from whoever fed the data
//! set. Numbers keep their sign. Who needs such text unchanged takes the XLSX, whose text cells are never run.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Write},
};

use crate::{report::Report, table::Cell};

/// Writes titles and rows; the total is left out, so that whoever adds up a column counts nothing twice.
pub(crate) fn write(report: &Report, file: &File) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(file);
    csv.write_record(report.table.columns.iter().map(|column| harmless(&column.title).into_owned()))?;
    for row in &report.table.rows {
        csv.write_record(row.iter().map(|cell| text(cell).into_owned()))?;
    }
    let mut file = csv.into_inner().map_err(csv::IntoInnerError::into_error)?;
    file.flush()
}

fn text(cell: &Cell) -> Cow<'_, str> {
    match cell {
        Cell::Text(text) => harmless(text),
        Cell::Number(number) => number.to_string().into(),
        Cell::Empty => "".into(),
    }
}

fn harmless(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;

    #[test]
    fn text_that_a_spreadsheet_would_run_is_made_harmless_and_a_number_is_not_touched() {
        for (written, safe) in [
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1-1", "'+1-1"),
            ("-2+3", "'-2+3"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("plain = text", "plain = text"),
            ("", ""),
        ] {
            assert_eq!(text(&Cell::Text(written.to_owned())), safe);
        }
        assert_eq!(text(&Cell::Number(Decimal::parse(b"-12.50").unwrap())), "-12.50");
    }
}
