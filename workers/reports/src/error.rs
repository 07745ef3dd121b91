//! The error of a report, and whether another attempt can succeed.

use std::io;

use crate::{
    number_format::is_number_in_another_format,
    request::{AggregateOp, ReportFormat},
};

/// Reason why a report was not written.
///
/// A row is its line in the file, counted from 1, header included.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The name of the data set is not a plain path below the data directory.
    #[error("dataset {name:?} is refused: {reason}")]
    DatasetName {
        /// The name in the request.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The data directory does not have the file.
    #[error("dataset {name:?} does not exist")]
    DatasetMissing {
        /// The name in the request.
        name: String,
    },
    /// The name of the output is not a plain file name.
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
        /// The violated rule.
        reason: &'static str,
    },
    /// The request names a column that does not exist.
    #[error("{field}: there is no column {column:?}; the columns are {}", listed(.existing))]
    UnknownColumn {
        /// The field of the request that names it.
        field: &'static str,
        /// The column in the request.
        column: String,
        /// The columns that exist.
        existing: Vec<String>,
    },
    /// The header or the request has a column twice.
    #[error("{field}: column {column:?} occurs twice")]
    DuplicateColumn {
        /// The field of the request, or the header of the data set.
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
    /// A cell of a sum or a mean is not a number.
    #[error("row {row}, column {column:?}: {value:?} is not a number, so there is no {op} of it{}", number_format_hint(.value))]
    NotANumber {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// The operation on the column.
        op: AggregateOp,
    },
    /// A cell has another type than the value of the filter.
    #[error(
        "row {row}, column {column:?}: {value:?} is not {expected}, so it cannot be compared with {operand}{}",
        number_format_hint(.value)
    )]
    NotComparable {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// The type of the filter's value.
        expected: &'static str,
        /// The value of the filter, shortened.
        operand: String,
    },
    /// A cell of a least or greatest value is a number or a date in a format that has no order.
    #[error(
        "row {row}, column {column:?}: {value:?} has no {op}: numbers must be plain, with at most 38 digits and 20 decimals, and dates as 2026-11-21{}",
        number_format_hint(.value)
    )]
    Unordered {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// The operation on the column.
        op: AggregateOp,
    },
    /// A column of a least or greatest value has values of two kinds: numbers, dates, text.
    #[error("row {row}, column {column:?}: {value:?} cannot be ordered among the {kind} above it")]
    MixedColumn {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// Kind of the earlier values: numbers, dates or text.
        kind: &'static str,
    },
    /// A cell is not UTF-8.
    #[error("row {row}, column {column:?}: {value:?} is not UTF-8 (dialect.encoding names another encoding)")]
    NotUtf8 {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened, with replacement characters.
        value: String,
    },
    /// A row is too long, for example after a quotation mark that is not closed.
    #[error("row {row} is longer than {limit} bytes: is a quotation mark in it not closed?")]
    RowTooLong {
        /// The line where the row begins.
        row: u64,
        /// Maximum bytes of a row.
        limit: usize,
    },
    /// A quotation mark is not around a cell, and not doubled in a quoted cell (RFC 4180).
    #[error("row {row}: a quotation mark is inside a cell: quote the cell and double the mark, or set dialect.quote")]
    StrayQuote {
        /// The line where the row begins.
        row: u64,
    },
    /// The data set has bytes that are invalid in its encoding.
    #[error("dataset {name:?} is not {encoding}: the bytes before byte {offset} are not a character")]
    Encoding {
        /// The name in the request.
        name: String,
        /// The encoding, from the byte order mark or the request.
        encoding: &'static str,
        /// Position after the invalid bytes.
        offset: u64,
    },
    /// The data set's first line has NUL characters, or its lines end in a carriage return alone.
    #[error("dataset {name:?} is refused: {reason}")]
    NotText {
        /// The name in the request.
        name: String,
        /// The violated rule.
        reason: &'static str,
    },
    /// The data set ends inside a quoted cell.
    #[error("row {row}: a quotation mark in it is never closed")]
    UnclosedQuote {
        /// The line where the row begins.
        row: u64,
    },
    /// A sum has more than 38 digits.
    #[error("row {row}, column {column:?}: with {value:?} the {op} no longer fits 38 digits")]
    Overflow {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// The operation on the column.
        op: AggregateOp,
    },
    /// The data set has more groups than allowed.
    #[error("row {row} begins group number {}: at most {limit} are allowed (REPORTS_MAX_GROUPS)", .limit + 1)]
    TooManyGroups {
        /// The line of the row.
        row: u64,
        /// Maximum groups.
        limit: usize,
    },
    /// The text of the groups takes more memory than allowed.
    #[error("row {row}: the values of the groups are more than {limit} bytes of text")]
    GroupsTooLarge {
        /// The line of the row.
        row: u64,
        /// Maximum bytes.
        limit: usize,
    },
    /// The report has more rows than the format holds.
    #[error("{rows} rows do not fit {}, which holds {limit}: ask for the top ones, or for csv", .format.extension())]
    TooManyRows {
        /// The format of the request.
        format: ReportFormat,
        /// Rows of the report.
        rows: usize,
        /// Rows that the format holds.
        limit: usize,
    },
    /// The report has more columns than the format holds.
    #[error("{columns} {what} do not fit {container}, which holds {limit}: ask for fewer, or for csv")]
    TooManyColumns {
        /// The container of the columns: a page, a sheet.
        container: &'static str,
        /// Kind of the columns.
        what: &'static str,
        /// Number of columns.
        columns: usize,
        /// Number of columns that fit.
        limit: usize,
    },
    /// A text is too long for a cell of the format.
    #[error(
        "column {column:?}: {value:?} is longer than the {limit} characters that a cell of an xlsx holds: ask for csv"
    )]
    CellTooLong {
        /// The column of the report.
        column: String,
        /// The text, shortened.
        value: String,
        /// Maximum UTF-16 units of a cell.
        limit: usize,
    },
    /// The attempt was cancelled.
    #[error("stopped before the report was written")]
    Cancelled,
    /// The data set could not be read.
    #[error("cannot read dataset {name:?}")]
    Read {
        /// The name in the request.
        name: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The report could not be written.
    #[error("cannot write {name:?}")]
    Write {
        /// The report's file name.
        name: String,
        /// The error of the system.
        source: io::Error,
    },
}

impl ReportError {
    /// Returns whether another attempt would fail in the same way.
    ///
    /// Errors of the disk and a cancelled attempt are not permanent.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Cancelled | Self::Read { .. } | Self::Write { .. })
    }

    /// Returns whether a cell of one row is the cause, so that the other rows are still valid.
    pub(crate) fn is_about_a_value(&self) -> bool {
        matches!(
            self,
            Self::NotANumber { .. } | Self::NotComparable { .. } | Self::Unordered { .. } | Self::MixedColumn { .. }
        )
    }
}

/// Returns the hint for a number in another format.
fn number_format_hint(value: &str) -> &'static str {
    if is_number_in_another_format(value) {
        " (set dialect.decimal, thousands and currency to the format of the numbers)"
    } else {
        ""
    }
}

/// Returns a cell for an error message: invalid UTF-8 replaced, cut after 80 characters.
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
        assert!(text.starts_with(r#"group_by: there is no column "regoin"; the columns are "c0", "c1""#), "{text}");
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
