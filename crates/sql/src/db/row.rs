//! A row of a result, of either database.

use sqlx::{ColumnIndex, Decode, Postgres, Row as _, Sqlite, Type, postgres::PgRow, sqlite::SqliteRow};

/// A row.
#[derive(Debug)]
pub enum Row {
    /// Of PostgreSQL.
    Postgres(PgRow),
    /// Of SQLite.
    Sqlite(SqliteRow),
}

/// A value that both databases have.
pub trait ColumnValue<'r>: Decode<'r, Postgres> + Type<Postgres> + Decode<'r, Sqlite> + Type<Sqlite> {}

impl<'r, T: Decode<'r, Postgres> + Type<Postgres> + Decode<'r, Sqlite> + Type<Sqlite>> ColumnValue<'r> for T {}

impl Row {
    /// The value of a column, by its name or its number.
    ///
    /// # Errors
    ///
    /// As [`sqlx::Row::try_get`].
    pub fn try_get<'r, T: ColumnValue<'r>>(
        &'r self,
        column: impl ColumnIndex<PgRow> + ColumnIndex<SqliteRow>,
    ) -> sqlx::Result<T> {
        match self {
            Self::Postgres(row) => row.try_get(column),
            Self::Sqlite(row) => row.try_get(column),
        }
    }

    /// The number in a column, or 0 if it is negative.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get).
    pub fn number<N: TryFrom<i64> + Default>(&self, column: &str) -> sqlx::Result<N> {
        self.try_get(column).map(number)
    }

    /// Like [`number`](Self::number), for a column that may be NULL.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get).
    pub fn maybe_number<N: TryFrom<i64> + Default>(&self, column: &str) -> sqlx::Result<Option<N>> {
        Ok(self.try_get::<Option<i64>>(column)?.map(number))
    }

    /// Returns whether the number in a column is not 0.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get).
    pub fn flag(&self, column: &str) -> sqlx::Result<bool> {
        Ok(self.try_get::<i64>(column)? != 0)
    }

    /// The JSON in a text column that may be NULL.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get), and [`sqlx::Error::Decode`] for a text that is not JSON.
    pub fn json(&self, column: &str) -> sqlx::Result<Option<serde_json::Value>> {
        let text: Option<&str> = self.try_get(column)?;
        text.map(serde_json::from_str).transpose().map_err(|error| sqlx::Error::Decode(error.into()))
    }

    /// The text in a column, parsed.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get), and [`sqlx::Error::Decode`] for a text that does not parse.
    pub fn parse<T: std::str::FromStr<Err = String>>(&self, column: &str) -> sqlx::Result<T> {
        self.try_get::<&str>(column)?.parse().map_err(|error: String| sqlx::Error::Decode(error.into()))
    }
}

/// Reads a value from a row.
pub trait FromRow: Sized {
    /// Reads a value from a row.
    ///
    /// # Errors
    ///
    /// As [`Row::try_get`].
    fn from_row(row: &Row) -> sqlx::Result<Self>;
}

impl<A: for<'r> ColumnValue<'r>, B: for<'r> ColumnValue<'r>> FromRow for (A, B) {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok((row.try_get(0)?, row.try_get(1)?))
    }
}

/// A number as an unsigned or smaller type, or 0 if it does not fit: columns that are never negative are signed.
#[must_use]
pub fn number<N: TryFrom<i64> + Default>(value: i64) -> N {
    N::try_from(value).unwrap_or_default()
}
