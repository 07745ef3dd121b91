use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a data set is written, where it is not UTF-8 with commas and plain numbers.
///
/// A byte order mark takes precedence over `encoding`. Without `delimiter`, a first line `sep=;` names it, or else a header
/// without a comma that has only one of semicolon, tab and bar. Nothing else is detected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dialect {
    /// The character between two cells, one of ASCII, such as `;` or a tab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// The quotation mark around cells, one character of ASCII, `"` when absent; empty for a file without quoting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// The encoding by a label of the WHATWG Encoding Standard, such as `windows-1252`, `latin1` or `utf-16le`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The decimal point of numbers: `.` when absent, or `,`. Between semicolons or tabs,
    /// cells such as `1.234` require it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decimal: Option<char>,
    /// The character between groups of digits: `.`, `,`, `'`, `’`, `_` or a blank; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thousands: Option<char>,
    /// The currency that may stand before or after a number, such as `$` or `EUR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// What becomes of a row with fewer cells than the header.
    #[serde(default)]
    pub short_rows: ShortRows,
}

/// What becomes of a row with fewer cells than the header; one with more is always an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShortRows {
    /// It is an error that names the row.
    #[default]
    Refuse,
    /// The missing cells are empty.
    Pad,
}

/// What becomes of a row with a cell that cannot be compared, added or ordered as the request asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The report ends with an error that names row, column and value.
    #[default]
    Stop,
    /// The row counts in no figure. The report and the job's result give the number of such rows.
    Skip,
}
