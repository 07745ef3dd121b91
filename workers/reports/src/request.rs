//! The payload of `report.generate`: what a publisher asks for.
//!
//! Every set here is closed and unknown fields are refused, so a misspelt request ends as a dead letter that says so
//! instead of as a report that silently leaves something out.

mod dialect;
mod words;

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
    /// The columns whose values make a group; none gives one row over everything.
    #[serde(default)]
    pub group_by: Vec<String>,
    /// The figures per group, at least one.
    pub aggregates: Vec<Aggregate>,
    /// What a row must satisfy, all of it, to be counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// The order of the rows; by group, ascending, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<Sort>,
    /// Keeps the first rows of that order only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<usize>,
    /// How the data set is written; UTF-8 with commas and plain numbers when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// What becomes of a row with a cell that cannot be compared, added or ordered.
    #[serde(default)]
    pub on_error: OnError,
    /// The kind of file to write.
    pub format: Format,
    /// The file's name without its extension, such as `by-region`; an existing report of that name is replaced.
    pub output: String,
}

/// One figure per group, such as `sum(amount)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The column to reduce; `*` with `count` counts rows.
    pub column: String,
    /// How it is reduced.
    pub op: AggregateOp,
}

/// How the values of a column become one figure. Empty cells are left out, as SQL does with null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AggregateOp {
    /// The exact sum of numbers; 0 for a group without any.
    Sum,
    /// The mean of numbers, rounded half to even six decimals further than they have; empty for a group without any.
    Mean,
    /// How many cells are not empty.
    Count,
    /// The smallest value: of numbers, of dates, or else of text, but not of two of them in one column.
    Min,
    /// The greatest value: of numbers, of dates, or else of text, but not of two of them in one column.
    Max,
}

/// One condition on the rows to be counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The column to look at.
    pub column: String,
    /// How its cell is compared with the value.
    pub op: FilterOp,
    /// What it is compared with: a list for `in` and `not_in`, one number or text for all others.
    pub value: FilterValue,
}

/// How a cell is compared.
///
/// A value that reads as a number in the data set's notation compares with numbers (`1.0` equals `1`). A value that reads
/// as a date with the year first, such as `2026-11-21`, `2026/9/1` or `2026-11-21T10:00+02:00`, compares with dates and
/// times. Any other value compares with text, byte by byte; `2026-11` so compares with dates such as `2026-11-21` too.
///
/// A day counts as the moment at which it begins: `eq` `2026-11-21` accepts `2026-11-21 00:00` and not
/// `2026-11-21 10:00`. Use `ge` and `lt` for all times of a day.
///
/// `lt`, `le`, `gt` and `ge` on a cell of another kind are an error that names the row. So is any comparison, except
/// `contains` and `starts_with`, of a number with one in another notation, such as `$1,000`, of a date with one such as
/// `21.11.2026`, and of two times of which only one has an offset from UTC. An empty cell is neither less nor greater than
/// anything.
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

/// The right-hand side of a [`Filter`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a filter's value must be a number, a text, or a list of them")]
pub enum FilterValue {
    /// One number or text.
    One(Scalar),
    /// Several of them.
    Many(Vec<Scalar>),
}

/// A number or a text in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// A JSON number; one of more than 15 digits that is not a 64-bit integer must be given as a text.
    Number(serde_json::Number),
    /// A JSON string; one that reads as a number in the data set's notation compares as one.
    Text(String),
}

/// The order of a report's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sort {
    /// A column of the report: one of `group_by`, or an aggregate as it is titled, such as `sum(amount)`.
    pub column: String,
    /// From the greatest down.
    #[serde(default)]
    pub descending: bool,
}

/// The kind of file to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Comma-separated values, for programs.
    Csv,
    /// An Excel workbook.
    Xlsx,
    /// A printable page with a chart.
    Pdf,
}

impl Format {
    /// The file's extension, without the dot.
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
        let unknown = serde_json::from_str::<Format>("\"docx\"").unwrap_err().to_string();
        assert!(unknown.contains("expected one of `csv`, `xlsx`, `pdf`"), "{unknown}");
        let unknown = serde_json::from_str::<AggregateOp>("\"median\"").unwrap_err().to_string();
        assert!(unknown.contains("expected one of `sum`, `mean`, `count`, `min`, `max`"), "{unknown}");
    }
}
