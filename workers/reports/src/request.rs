//! The payload of `report.generate`.
//!
//! Unknown fields and values are refused, so a misspelt request becomes a dead letter with an error, and not a report
//! that lacks something.

mod dialect;
mod display;

pub use dialect::{Dialect, OnError, ShortRows};
use leveret::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Groups and aggregates one CSV file and writes the result as CSV, XLSX or PDF.
///
/// ```
/// use leveret_reports::GenerateReport;
///
/// let request: GenerateReport = serde_json::from_str(
///     r#"{"dataset": "sales.csv", "group_by": ["region"], "aggregates": [{"column": "amount", "op": "sum"}],
///         "filters": [{"column": "date", "op": "ge", "value": "2026-01-01"}],
///         "sort": {"column": "sum(amount)", "descending": true}, "top": 10, "format": "pdf", "output": "by-region"}"#,
/// )?;
/// assert_eq!(request.aggregates[0].to_string(), "sum(amount)");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "report.generate", queue = "reports", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "Groups and aggregates one CSV file and writes the result as CSV, XLSX or PDF.")]
pub struct GenerateReport {
    /// A CSV file below the data directory, such as `sales.csv` or `2026/sales.csv`.
    pub dataset: String,
    /// The columns whose values name a group; without columns the report has one row for all rows.
    #[serde(default)]
    pub group_by: Vec<String>,
    /// The figures per group, at least one.
    pub aggregates: Vec<Aggregate>,
    /// The filters; a row counts if it matches all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<RowFilter>,
    /// The order of the rows; ascending by group when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<RowOrder>,
    /// The number of rows to keep, from the first on; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<usize>,
    /// The format of the data set; UTF-8 with commas and plain numbers when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// The treatment of a row with a cell that cannot be compared, added or ordered.
    #[serde(default)]
    pub on_error: OnError,
    /// The format of the report.
    pub format: ReportFormat,
    /// The file's name without its extension, such as `by-region`; an existing report of that name is replaced.
    pub output: String,
}

/// One figure per group, such as `sum(amount)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The column of the values; `*` with `count` counts rows.
    pub column: String,
    /// The operation on the values.
    pub op: AggregateOp,
}

/// An operation that makes one figure of the values of a column. It ignores empty cells, as SQL ignores null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AggregateOp {
    /// The exact sum of numbers; 0 for a group without numbers.
    Sum,
    /// The mean of numbers, rounded half to even to six more decimals than they have; empty for a group without numbers.
    Mean,
    /// The number of cells that are not empty.
    Count,
    /// The least value of a column of numbers, of dates or of text.
    Min,
    /// The greatest value of a column of numbers, of dates or of text.
    Max,
}

/// A filter on the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowFilter {
    /// The column to compare.
    pub column: String,
    /// The comparison of the cell with the value.
    pub op: FilterOp,
    /// The value: a list for `in` and `not_in`, one number or text for all others.
    pub value: FilterValue,
}

/// A comparison of a cell with a value.
///
/// A value that is a number in the data set's number format compares with numbers (`1.0` equals `1`). A value that is a
/// date with the year first, such as `2026-11-21`, `2026/9/1` or `2026-11-21T10:00+02:00`, compares with dates and times.
/// Any other value compares with text, byte by byte. `2026-11` therefore also compares with dates such as `2026-11-21`.
///
/// A day counts as the moment at which it begins: `eq` `2026-11-21` accepts `2026-11-21 00:00` and not
/// `2026-11-21 10:00`. Use `ge` and `lt` for all times of a day.
///
/// `lt`, `le`, `gt` and `ge` on a cell of another type are an error that names the row. All operations except `contains`
/// and `starts_with` also fail for a number in another format, such as `$1,000`, for a date such as `21.11.2026`, and for
/// two times of which only one has an offset from UTC. An empty cell is neither less nor greater than any value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilterOp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Equal to one of a list.
    In,
    /// Equal to none of a list.
    NotIn,
    /// Contains the text, in the same case.
    Contains,
    /// Begins with the text, in the same case.
    StartsWith,
}

/// The right-hand side of a [`RowFilter`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a filter's value must be a number, a text, or a list of them")]
pub enum FilterValue {
    /// One number or text.
    One(Scalar),
    /// Several numbers or texts.
    Many(Vec<Scalar>),
}

/// A number or a text in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// A JSON number; a number with more than 15 digits that is not a 64-bit integer must be given as a text.
    Number(serde_json::Number),
    /// A JSON string; it compares as a number if it is one in the data set's number format.
    Text(String),
}

/// The order of a report's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowOrder {
    /// A column of the report: one of `group_by`, or the title of an aggregate, such as `sum(amount)`.
    pub column: String,
    /// Sorts from the greatest value down.
    #[serde(default)]
    pub descending: bool,
}

/// The format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportFormat {
    /// Comma-separated values, for programs.
    Csv,
    /// An Excel workbook.
    Xlsx,
    /// A printable page with a chart.
    Pdf,
}

impl ReportFormat {
    /// Returns the extension of the file, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Xlsx => "xlsx",
            Self::Pdf => "pdf",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: &str) -> Result<GenerateReport, String> {
        let base =
            r#"{"dataset": "d.csv", "aggregates": [{"column": "*", "op": "count"}], "format": "csv", "output": "o""#;
        serde_json::from_str(&format!("{base}{change}}}")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_survives_the_wire() {
        let request = read(r#", "filters": [{"column": "a", "op": "not_in", "value": [1, "x"]}], "top": 3"#).unwrap();
        let again = serde_json::from_str(&serde_json::to_string(&request).unwrap()).unwrap();
        assert_eq!(request, again);
    }

    #[test]
    fn what_is_unknown_is_refused_and_what_is_known_is_listed() {
        for (change, complaint) in [
            (r#", "limit": 5"#, "unknown field `limit`"),
            (r#", "sort": {"column": "a", "desc": true}"#, "unknown field `desc`"),
            (
                r#", "filters": [{"column": "a", "op": "like", "value": 1}]"#,
                "unknown variant `like`, expected one of `eq`",
            ),
            (r#", "filters": [{"column": "a", "op": "eq", "value": null}]"#, "must be a number, a text"),
            (r#", "top": -1"#, "invalid value"),
        ] {
            let error = read(change).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
        let unknown = serde_json::from_str::<ReportFormat>("\"docx\"").unwrap_err().to_string();
        assert!(unknown.contains("expected one of `csv`, `xlsx`, `pdf`"), "{unknown}");
        let unknown = serde_json::from_str::<AggregateOp>("\"median\"").unwrap_err().to_string();
        assert!(unknown.contains("expected one of `sum`, `mean`, `count`, `min`, `max`"), "{unknown}");
    }
}
