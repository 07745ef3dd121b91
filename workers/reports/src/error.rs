//! Why a report was not written, and whether trying again could help.

use std::io;

use crate::request::{AggregateOp, Format};

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
    #[error("row {row}, column {column:?}: {value:?} is not a number, so there is no {op} of it")]
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
    /// A column to take the least or greatest value of has numbers and other text.
    #[error("row {row}, column {column:?}: {value:?} cannot be ordered among the {kind} above it")]
    MixedColumn {
        /// The line of the row.
        row: u64,
        /// The column.
        column: String,
        /// The cell, shortened.
        value: String,
        /// What the column has held so far: numbers or text.
        kind: &'static str,
    },
    /// A cell is not UTF-8.
    #[error("row {row}, column {column:?}: {value:?} is not UTF-8")]
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
