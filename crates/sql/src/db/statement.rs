//! A statement in the making: text with `$1`-like places, which both databases read, and what goes there.

use std::time::SystemTime;

use sqlx::{Any, AssertSqlSafe, Decode, FromRow, Row, Type, any::AnyRow, query::Query};

use crate::{Result, lent::Lent, open::Dialect};

/// Statements of many rows are made for these numbers of them alone, so that a connection can keep them prepared.
const ROWS_AT_ONCE: [usize; 4] = [64, 16, 4, 1];

#[derive(Clone)]
pub(crate) struct Sql {
    text: String,
    args: Vec<Arg>,
    late: bool,
}

/// A value on its way to the database. Its type is known even where it is missing, as PostgreSQL demands.
#[derive(Clone)]
pub(crate) enum Arg {
    Int(Option<i64>),
    Real(Option<f64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Sql {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), args: Vec::new(), late: false }
    }

    /// Of a statement that may have to do with all rows that there are: it is given the time.
    pub(crate) fn late(mut self) -> Self {
        self.late = true;
        self
    }

    /// Fills the next place that the text has.
    pub(crate) fn arg(mut self, value: impl Into<Arg>) -> Self {
        self.args.push(value.into());
        self
    }

    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a place, and what goes there.
    pub(crate) fn bind(&mut self, value: impl Into<Arg>) -> &mut Self {
        let place = self.place(value);
        self.push(&place)
    }

    /// A place that is yet to be written, and what goes there.
    pub(crate) fn place(&mut self, value: impl Into<Arg>) -> String {
        self.args.push(value.into());
        format!("${}", self.args.len())
    }

    /// Appends `($1, $2), ($3, $4)`: rows to be inserted.
    pub(crate) fn values<const N: usize>(&mut self, rows: impl IntoIterator<Item = [Arg; N]>) -> &mut Self {
        for (number, row) in rows.into_iter().enumerate() {
            self.push(if number == 0 { "(" } else { ", (" });
            for (column, value) in row.into_iter().enumerate() {
                self.push(if column == 0 { "" } else { ", " }).bind(value);
            }
            self.push(")");
        }
        self
    }

    pub(crate) fn is_late(&self) -> bool {
        self.late
    }

    pub(crate) async fn execute(self, on: &mut Lent) -> Result<u64> {
        Ok(on.ask(self).await?.0)
    }

    pub(crate) async fn raw(self, on: &mut Lent) -> Result<Vec<AnyRow>> {
        Ok(on.ask(self).await?.1)
    }

    pub(crate) async fn all<T>(self, on: &mut Lent) -> Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, AnyRow>,
    {
        Ok(self.raw(on).await?.iter().map(T::from_row).collect::<sqlx::Result<_>>()?)
    }

    pub(crate) async fn maybe<T>(self, on: &mut Lent) -> Result<Option<T>>
    where
        T: for<'r> FromRow<'r, AnyRow>,
    {
        Ok(self.raw(on).await?.first().map(T::from_row).transpose()?)
    }

    /// The only column of the only row.
    pub(crate) async fn one<T>(self, on: &mut Lent) -> Result<T>
    where
        T: for<'r> Decode<'r, Any> + Type<Any>,
    {
        let rows = self.raw(on).await?;
        Ok(rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?)
    }

    pub(crate) fn into_parts(self) -> (String, Vec<Arg>) {
        (self.text, self.args)
    }

    /// Never the text of a user: that always goes to a place.
    pub(crate) fn query(self, dialect: Dialect) -> Query<'static, Any, sqlx::any::AnyArguments> {
        let query = sqlx::query(AssertSqlSafe(self.text)).persistent(dialect.keeps_statements());
        self.args.into_iter().fold(query, |query, arg| match arg {
            Arg::Int(value) => query.bind(value),
            Arg::Real(Some(value)) => query.bind(value),
            // sqlx 0.9.0 has the types of missing floats the wrong way round, and keeps the statement prepared so.
            Arg::Real(None) => query.bind(None::<f32>),
            Arg::Text(value) => query.bind(value),
            Arg::Bytes(value) => query.bind(value),
        })
    }
}

impl Dialect {
    /// The values of a JSON array in the place `place`, as a subquery: a list of any length for `IN`.
    pub(crate) fn list(self, place: &str) -> String {
        match self {
            Self::Sqlite => format!("(SELECT value FROM json_each({place}))"),
            Self::Postgres => format!("(SELECT json_array_elements_text({place}::json))"),
        }
    }

    /// As [`Self::list`], of numbers.
    pub(crate) fn numbers(self, place: &str) -> String {
        match self {
            Self::Sqlite => self.list(place),
            Self::Postgres => format!("(SELECT json_array_elements_text({place}::json)::bigint)"),
        }
    }

    /// Whether a text contains that in the place `place`, which has no capital ASCII letters, whatever the case of its own.
    /// Other letters are left as they are, on both databases and in every locale.
    pub(crate) fn contains_folded(self, column: &str, place: &str) -> String {
        match self {
            Self::Sqlite => self.contains(&format!("lower({column})"), place),
            Self::Postgres => self.contains(&format!("lower({column} COLLATE \"C\")"), place),
        }
    }

    /// Whether a text or bytes contain those in the place `place`.
    pub(crate) fn contains(self, column: &str, place: &str) -> String {
        match self {
            Self::Sqlite => format!("instr({column}, {place}) > 0"),
            Self::Postgres => format!("position({place} IN {column}) > 0"),
        }
    }
}

/// Cuts rows into the chunks that are written at once.
pub(crate) fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = ROWS_AT_ONCE.into_iter().find(|size| *size <= rows.len())?;
        let (chunk, rest) = rows.split_at(size);
        rows = rest;
        Some(chunk)
    })
}

/// A list for [`Dialect::list`].
pub(crate) fn text_list<'a>(items: impl IntoIterator<Item = &'a str>) -> Arg {
    let items: Vec<_> = items.into_iter().map(without_nul).collect();
    Arg::Text(Some(serde_json::json!(items).to_string()))
}

/// A list for [`Dialect::numbers`].
pub(crate) fn number_list(items: &[i64]) -> Arg {
    Arg::Text(Some(serde_json::json!(items).to_string()))
}

/// PostgreSQL has no NUL in a text, nor in the JSON that it reads.
pub(crate) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The clock of this machine, in milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A column that is never negative, though its type could be.
pub(crate) fn number<N: TryFrom<i64> + Default>(value: i64) -> N {
    N::try_from(value).unwrap_or_default()
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Int(Some(value.into()))
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Some(value).into()
    }
}

impl From<Option<u64>> for Arg {
    fn from(value: Option<u64>) -> Self {
        Self::Int(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl From<Option<f64>> for Arg {
    fn from(value: Option<f64>) -> Self {
        Self::Real(value)
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Some(value).into()
    }
}

impl From<Option<&str>> for Arg {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(without_nul))
    }
}

impl From<&serde_json::Value> for Arg {
    fn from(value: &serde_json::Value) -> Self {
        Self::Text(Some(value.to_string()))
    }
}

impl From<&[u8]> for Arg {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(Some(value.to_vec()))
    }
}
