//! The format of a data set, as a request states it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The format of a data set that is not UTF-8 with commas and plain numbers.
///
/// A byte order mark takes precedence over `encoding`. Without `delimiter`, the worker reads the delimiter from a first line
/// such as `sep=;`, or from a header without a comma that has only one of semicolon, tab and bar. It detects nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dialect {
    /// The ASCII character between two cells, such as `;` or a tab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// The quotation mark around cells, one ASCII character, `"` when absent; empty for a file without quoting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// The encoding by a label of the WHATWG Encoding Standard, such as `windows-1252`, `latin1` or `utf-16le`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The decimal point of numbers: `.` or `,`; `.` when absent. With semicolons or tabs as delimiter, numbers such as
    /// `1.234` require it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decimal: Option<char>,
    /// The character between groups of digits: `.`, `,`, `'`, `’`, `_` or a blank; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thousands: Option<char>,
    /// The currency that may stand before or after a number, such as `$` or `EUR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// The treatment of a row with fewer cells than the header.
    #[serde(default)]
    pub short_rows: ShortRows,
}

/// The treatment of a row with fewer cells than the header. A row with more cells is always an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShortRows {
    /// Fails the report with an error that names the row.
    #[default]
    Refuse,
    /// Treats the missing cells as empty.
    Pad,
}

/// The treatment of a row with a cell that cannot be compared, added or ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Fails the report with an error that names row, column and value.
    #[default]
    Stop,
    /// Skips the row in all figures. The report and the job's result state the number of skipped rows.
    Skip,
}
