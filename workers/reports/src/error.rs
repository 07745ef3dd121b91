//! Why a report was not written, and whether trying again could help.

use std::io;

use crate::{
    number_format::is_dressed_number,
    request::{AggregateOp, Format},
};

/// Why a report was not written.
///
/// Rows are named by their line in the file, counted from 1, the header included.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The data set's name is not a plain path below the data directory.
    #[error("dataset {name:?} is refused: {reason}")]
    DatasetName {
        /// The name in the request.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// There is no such file in the data directory.
    #[error("dataset {name:?} does not exist")]
    DatasetMissing {
        /// The name in the request.
        name: String,
    },
    /// The output's name is not a plain file name.
    #[error("output {name:?} is refused: {reason}")]
    OutputName {
        /// The name in the request.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The request contradicts itself.
    #[error("{field}: {reason}")]
    Request {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A column is named that is not there.
    #[error("{field}: there is no column {column:?}; there are {}", listed(.existing))]
    UnknownColumn {
        /// The field of the request that names it.
        field: &'static str,
        /// The column in the request.
        column: String,
        /// The columns that exist.
        existing: Vec<String>,
    },
    /// A column is named that is there more than once, or asked for twice.
    #[error("{field}: column {column:?} occurs twice")]
    DuplicateColumn {
        /// Where it occurs twice: a field of the request, or the header of the data set.
        field: &'static str,
        /// The column.
        column: String,
    },
    /// A row has more or fewer cells than the header.
    #[error("row {row} has {found} cells where the header has {expected}")]
    FieldCount {
        /// The line of the row.
        row: u64,
        /// Cells in the header.
        expected: usize,
        /// Cells in the row.
        found: usize,
    },
    /// A cell that is to be added up is not a number.
    #[error("row {row}, column {column:?}: {value:?} is not a number, so there is no {op} of it{}", way_out(.value))]
    NotANumber {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// What was to be done with it.
        op: AggregateOp,
    },
    /// A cell is of another kind than the value that a filter compares it with.
    #[error(
        "row {row}, column {column:?}: {value:?} is not {expected}, so it cannot be compared with {operand}{}",
        way_out(.value)
    )]
    NotComparable {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// What it would have to be.
        expected: &'static str,
        /// The value of the filter, shortened.
        operand: String,
    },
    /// A cell to take the least or greatest of is a number or a date whose text has no order.
    #[error(
        "row {row}, column {column:?}: {value:?} has no {op}: numbers must be plain, with at most 38 digits and 20 decimals, and dates as 2026-11-21{}",
        way_out(.value)
    )]
    Unordered {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// What was to be done with it.
        op: AggregateOp,
    },
    /// A column to take the least or greatest value of has values of two kinds: numbers, dates, text.
    #[error("row {row}, column {column:?}: {value:?} cannot be ordered among the {kind} above it")]
    MixedColumn {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// What the column has held so far: numbers, dates or text.
        kind: &'static str,
    },
    /// A cell is not UTF-8.
    #[error("row {row}, column {column:?}: {value:?} is not UTF-8 (dialect.encoding names another encoding)")]
    NotUtf8 {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened and repaired.
        value: String,
    },
    /// A row is larger than any honest one, as after a quotation mark that is never closed.
    #[error("row {row} is longer than {limit} bytes: is a quotation mark in it not closed?")]
    RowTooLong {
        /// The line where the row begins.
        row: u64,
        /// The most bytes a row may have.
        limit: usize,
    },
    /// A quotation mark stands elsewhere than RFC 4180 has it: around a cell, or doubled in a quoted one.
    #[error(
        "row {row}: a quotation mark stands inside a cell: quote the cell and double the mark, or see dialect.quote"
    )]
    StrayQuote {
        /// The line where the row begins.
        row: u64,
    },
    /// The bytes of the data set are not of its encoding.
    #[error("dataset {name:?} is not {encoding}: byte {offset} or one before it begins no character")]
    Encoding {
        /// The name in the request.
        name: String,
        /// The encoding by the file's mark or by the request.
        encoding: &'static str,
        /// The bytes that had been read.
        offset: u64,
    },
    /// The data set's first line has NUL characters, or its lines end in a carriage return alone.
    #[error("dataset {name:?} is refused: {reason}")]
    NotText {
        /// The name in the request.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The data set ends inside a quoted cell.
    #[error("row {row}: a quotation mark in it is never closed")]
    UnclosedQuote {
        /// The line where the row begins.
        row: u64,
    },
    /// A sum needs more than 38 digits.
    #[error("row {row}, column {column:?}: with {value:?} the {op} no longer fits 38 digits")]
    Overflow {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// What was being computed.
        op: AggregateOp,
    },
    /// The rows fall into more groups than memory is set aside for.
    #[error("row {row} begins group number {}: at most {limit} are allowed (REPORTS_MAX_GROUPS)", .limit + 1)]
    TooManyGroups {
        /// The line of the row.
        row: u64,
        /// The most groups.
        limit: usize,
    },
    /// The groups' values are larger than the memory set aside for them.
    #[error("row {row}: the values of the groups are more than {limit} bytes of text")]
    GroupsTooLarge {
        /// The line of the row.
        row: u64,
        /// The most bytes.
        limit: usize,
    },
    /// The result does not fit the format.
    #[error("{rows} rows do not fit {}, which holds {limit}: ask for the top ones, or for csv", .format.extension())]
    TooManyRows {
        /// The format of the request.
        format: Format,
        /// Rows of the result.
        rows: usize,
        /// Rows that the format holds.
        limit: usize,
    },
    /// The result has more columns than the format holds.
    #[error("{columns} {what} do not fit {place}, which holds {limit}: ask for fewer, or for csv")]
    TooManyColumns {
        /// Where they would be: a page, a sheet.
        place: &'static str,
        /// Which columns.
        what: &'static str,
        /// How many there are.
        columns: usize,
        /// How many fit.
        limit: usize,
    },
    /// A text of the result does not fit a cell of the format.
    #[error(
        "column {column:?}: {value:?} is longer than the {limit} characters that a cell of an xlsx holds: ask for csv"
    )]
    CellTooLong {
        /// The column of the result.
        column: String,
        /// The text, shortened.
        value: String,
        /// The most UTF-16 units of a cell.
        limit: usize,
    },
    /// The attempt was told to stop.
    #[error("stopped before the report was written")]
    Cancelled,
    /// The data set could not be read.
    #[error("cannot read dataset {name:?}")]
    Read {
        /// The name in the request.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The report could not be written.
    #[error("cannot write {name:?}")]
    Write {
        /// The report's file name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ReportError {
    /// Whether another attempt would end the same way: true of everything but the disk and a cancelled attempt.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Cancelled | Self::Read { .. } | Self::Write { .. })
    }
}

impl ReportError {
    /// Whether a cell of one row is the cause, which leaves the other rows as they are.
    pub(crate) fn is_about_a_value(&self) -> bool {
        matches!(
            self,
            Self::NotANumber { .. } | Self::NotComparable { .. } | Self::Unordered { .. } | Self::MixedColumn { .. }
        )
    }
}

/// How a number in another notation can be read after all.
fn way_out(value: &str) -> &'static str {
    if is_dressed_number(value) { " (dialect.decimal, thousands and currency say how numbers are written)" } else { "" }
}

/// A cell as an error shows it: repaired where it is not UTF-8, and cut after 80 characters.
pub(crate) fn shown(cell: &[u8]) -> String {
    const LONGEST: usize = 80;
    let text = String::from_utf8_lossy(&cell[..cell.len().min(4 * LONGEST)]);
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < cell.len() && text.chars().count() > LONGEST {
        short.push('…');
    }
    short
}

fn listed(columns: &[String]) -> String {
    const MOST: usize = 50;
    let mut names: Vec<_> = columns.iter().take(MOST).map(|name| format!("{:?}", shown(name.as_bytes()))).collect();
    if columns.len() > MOST {
        names.push(format!("{} more", columns.len() - MOST));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cell_is_cut_and_a_broken_one_repaired() {
        assert_eq!(shown(b"12o"), "12o");
        assert_eq!(shown(b"\xff1"), "\u{fffd}1");
        assert_eq!(shown("é".repeat(500).as_bytes()).chars().count(), 81);
    }

    #[test]
    fn an_unknown_column_names_those_that_exist() {
        let existing = (0..60).map(|number| format!("c{number}")).collect();
        let error = ReportError::UnknownColumn { field: "group_by", column: "regoin".into(), existing };
        let text = error.to_string();
        assert!(text.starts_with(r#"group_by: there is no column "regoin"; there are "c0", "c1""#), "{text}");
        assert!(text.ends_with(r#""c49", 10 more"#), "{text}");
    }

    #[test]
    fn only_the_disk_and_a_stop_are_worth_another_attempt() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert!(!ReportError::Write { name: "r".into(), source: full() }.is_permanent());
        assert!(!ReportError::Read { name: "d".into(), source: full() }.is_permanent());
        assert!(!ReportError::Cancelled.is_permanent());
        assert!(ReportError::DatasetMissing { name: "d".into() }.is_permanent());
        assert!(ReportError::FieldCount { row: 2, expected: 3, found: 2 }.is_permanent());
    }
}
