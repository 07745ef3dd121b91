//! Rows as one JSON array of arrays in a placeholder. So one statement reads or changes any number of rows.

use leveret_sql::db::{Arg, Dialect};
use serde_json::Value;

/// Makes the value of the placeholder. Texts must have no NUL ([`leveret_sql::db::without_nul`]).
pub(super) fn rows(rows: &[Value]) -> Arg {
    Arg::Text(Some(serde_json::to_string(rows).unwrap_or_default()))
}

/// The rows in `$1` as the table `n`.
pub(super) fn table(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "json_each($1) AS n",
        Dialect::Postgres => "json_array_elements($1::json) AS n",
    }
}

/// The text in a column of these rows, or NULL.
pub(super) fn text(dialect: Dialect, column: usize) -> String {
    match dialect {
        Dialect::Sqlite => format!("json_extract(n.value, '$[{column}]')"),
        Dialect::Postgres => format!("(n.value->>{column})"),
    }
}

/// The number in a column of these rows, or NULL.
pub(super) fn number(dialect: Dialect, column: usize) -> String {
    match dialect {
        Dialect::Sqlite => text(dialect, column),
        Dialect::Postgres => format!("(n.value->>{column})::bigint"),
    }
}
