//! Tables that live in a database of yours: two databases behind one seam. The statements are the same on both, the
//! connections are the caller's own.

pub(crate) mod schema;

use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, Postgres, Row, Sqlite, SqliteConnection, SqlitePool, Transaction,
    pool::PoolConnection, postgres::PgRow, query::Query, sqlite::SqliteRow,
};

use crate::{
    Result,
    open::Dialect,
    sql::{Arg, Sql},
};

/// Makes a part of pools of connections, or of itself.
macro_rules! held_in_a_database {
    ($part:ident) => {
        impl From<&sqlx::PgPool> for $part {
            fn from(pool: &sqlx::PgPool) -> Self {
                Self { pool: $crate::embedded::Pool::Postgres(pool.clone()) }
            }
        }

        impl From<&sqlx::SqlitePool> for $part {
            fn from(pool: &sqlx::SqlitePool) -> Self {
                Self { pool: $crate::embedded::Pool::Sqlite(pool.clone()) }
            }
        }

        impl From<&Self> for $part {
            fn from(part: &Self) -> Self {
                part.clone()
            }
        }
    };
}

pub(crate) use held_in_a_database;

/// What a job can be enqueued or noted on: a transaction or a connection of sqlx, on PostgreSQL or SQLite.
///
/// It is not for others to implement.
pub trait Connection: Sealed + Send {}

impl<C: Sealed + Send> Connection for C {}

pub trait Sealed {
    fn open(&mut self) -> Open<'_>;
}

impl Sealed for PgConnection {
    fn open(&mut self) -> Open<'_> {
        Open::Postgres(self)
    }
}

impl Sealed for Transaction<'_, Postgres> {
    fn open(&mut self) -> Open<'_> {
        Open::Postgres(self)
    }
}

impl Sealed for SqliteConnection {
    fn open(&mut self) -> Open<'_> {
        Open::Sqlite(self)
    }
}

impl Sealed for Transaction<'_, Sqlite> {
    fn open(&mut self) -> Open<'_> {
        Open::Sqlite(self)
    }
}

/// A connection that is open.
#[derive(Debug)]
pub enum Open<'c> {
    Postgres(&'c mut PgConnection),
    Sqlite(&'c mut SqliteConnection),
}

/// Where connections come from.
#[derive(Clone, Debug)]
pub(crate) enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

pub(crate) enum Pooled {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

/// A row of a result, by the names of its columns.
pub(crate) trait Columns {
    fn int(&self, column: &str) -> Result<Option<i64>>;
    fn text(&self, column: &str) -> Result<Option<String>>;
    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>>;
}

/// What can be read from a row.
pub(crate) trait Record: Sized + Send {
    fn read(columns: &dyn Columns) -> Result<Self>;
}

/// A single number.
impl Record for i64 {
    fn read(columns: &dyn Columns) -> Result<Self> {
        Ok(columns.int("value")?.unwrap_or_default())
    }
}

macro_rules! columns {
    ($($row:ty),+) => {
        $(impl Columns for $row {
            fn int(&self, column: &str) -> Result<Option<i64>> {
                Ok(self.try_get(column)?)
            }

            fn text(&self, column: &str) -> Result<Option<String>> {
                Ok(self.try_get(column)?)
            }

            fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>> {
                Ok(self.try_get(column)?)
            }
        })+
    };
}

columns!(PgRow, SqliteRow);

/// The statement with its values, for either database.
macro_rules! filled {
    ($sql:expr, $database:ty) => {{
        let (text, args) = $sql.into_parts();
        let query: Query<'static, $database, _> = sqlx::query(AssertSqlSafe(text));
        args.into_iter().fold(query, |query, arg| match arg {
            Arg::Int(value) => query.bind(value),
            Arg::Real(value) => query.bind(value),
            Arg::Text(value) => query.bind(value),
            Arg::Bytes(value) => query.bind(value),
        })
    }};
}

impl Open<'_> {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs a statement, and says how many rows it changed.
    pub(crate) async fn execute(self, sql: Sql) -> Result<u64> {
        Ok(match self {
            Self::Postgres(on) => filled!(sql, Postgres).execute(on).await?.rows_affected(),
            Self::Sqlite(on) => filled!(sql, Sqlite).execute(on).await?.rows_affected(),
        })
    }

    pub(crate) async fn all<R: Record>(self, sql: Sql) -> Result<Vec<R>> {
        match self {
            Self::Postgres(on) => {
                filled!(sql, Postgres).fetch(on).err_into().and_then(async |row| R::read(&row)).try_collect().await
            }
            Self::Sqlite(on) => {
                filled!(sql, Sqlite).fetch(on).err_into().and_then(async |row| R::read(&row)).try_collect().await
            }
        }
    }

    /// Runs a text of several statements without values.
    pub(crate) async fn script(self, text: &'static str) -> Result<()> {
        match self {
            Self::Postgres(on) => sqlx::raw_sql(text).execute(on).await.map(drop)?,
            Self::Sqlite(on) => sqlx::raw_sql(text).execute(on).await.map(drop)?,
        }
        Ok(())
    }
}

impl Pool {
    /// Opens a database that is there.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        crate::open::embedded(url).await
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    pub(crate) async fn acquire(&self) -> Result<Pooled> {
        Ok(match self {
            Self::Postgres(pool) => Pooled::Postgres(pool.acquire().await?),
            Self::Sqlite(pool) => Pooled::Sqlite(pool.acquire().await?),
        })
    }

    /// Runs a statement in a transaction of its own, and says how many rows it changed.
    pub(crate) async fn execute(&self, sql: Sql) -> Result<u64> {
        self.acquire().await?.open().execute(sql).await
    }

    /// As [`Self::execute`], and returns what the statement does.
    pub(crate) async fn all<R: Record>(&self, sql: Sql) -> Result<Vec<R>> {
        self.acquire().await?.open().all(sql).await
    }

    /// As [`Self::all`], for statements that jump through indexes. PostgreSQL cannot know how few rows they touch, and by
    /// its estimate it would compile them first, which takes a hundred times as long as they do.
    pub(crate) async fn jump<R: Record>(&self, sql: Sql) -> Result<Vec<R>> {
        let Self::Postgres(pool) = self else { return self.all(sql).await };
        let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL jit = off").await?;
        let rows = tx.open().all(sql).await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// The only number that a statement returns, in the column `value`.
    pub(crate) async fn number(&self, sql: Sql) -> Result<i64> {
        Ok(self.all(sql).await?.first().copied().unwrap_or_default())
    }
}

impl Pooled {
    pub(crate) fn open(&mut self) -> Open<'_> {
        match self {
            Self::Postgres(on) => Open::Postgres(on),
            Self::Sqlite(on) => Open::Sqlite(on),
        }
    }
}

impl Dialect {
    /// The milliseconds since the epoch on the database's clock, which all relays share. The same in a whole statement.
    pub(crate) fn now(self) -> &'static str {
        match self {
            Self::Postgres => "floor(extract(epoch FROM now()) * 1000)::bigint",
            Self::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        }
    }

    /// What keeps a row that is chosen from being chosen by another at the same time. SQLite has one writer at a time.
    pub(crate) fn locked(self) -> &'static str {
        match self {
            Self::Postgres => "FOR UPDATE SKIP LOCKED",
            Self::Sqlite => "",
        }
    }
}
