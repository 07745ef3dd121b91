//! Tables that live in a database of yours: two databases behind one seam. The statements are the same on both, the
//! connections are the caller's own.

pub(crate) mod schema;

use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Connection as _, Database, Either, Executor, PgConnection, PgPool, Postgres, Row, Sqlite,
    SqliteConnection, SqlitePool, Transaction, pool::PoolConnection, postgres::PgRow, query::Query, sqlite::SqliteRow,
};

use crate::{
    Error, Result,
    lent::{LATER, SOON, lend, within},
    open::Dialect,
    sql::{Arg, Sql},
};

/// Makes a part of pools of connections, or of itself.
macro_rules! held_in_a_database {
    ($part:ident) => {
        impl From<&sqlx::PgPool> for $part {
            fn from(pool: &sqlx::PgPool) -> Self {
                Self { pool: pool.clone().into() }
            }
        }

        impl From<&sqlx::SqlitePool> for $part {
            fn from(pool: &sqlx::SqlitePool) -> Self {
                Self { pool: pool.clone().into() }
            }
        }

        impl From<&Self> for $part {
            fn from(part: &Self) -> Self {
                part.clone()
            }
        }

        impl $part {
            /// How long a statement on PostgreSQL may take, with the wait for a connection before it: 5 s by default, and
            /// twelve times that for statements that may read or write all rows. It fails with
            /// [`Error::Silent`](crate::Error::Silent) then, and its connection is closed.
            ///
            /// Statements in a transaction of yours have 30 s, because they may wait for other transactions.
            #[must_use]
            pub fn statement_timeout(mut self, limit: std::time::Duration) -> Self {
                self.pool.limit = limit;
                self
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

/// Where connections come from, and how long a statement may take on one of them.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    connections: Connections,
    pub(crate) limit: Duration,
}

#[derive(Clone, Debug)]
enum Connections {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        Self { connections: Connections::Postgres(pool), limit: SOON }
    }
}

/// SQLite itself says when another process has the file for too long.
impl From<SqlitePool> for Pool {
    fn from(pool: SqlitePool) -> Self {
        Self { connections: Connections::Sqlite(pool), limit: SOON }
    }
}

/// A connection of a pool. One that was left in the middle of something is closed and never used again.
struct Held<D: Database> {
    connection: PoolConnection<D>,
    is_asked: bool,
}

impl<D: Database> Held<D> {
    async fn of(pool: &sqlx::Pool<D>, limit: Duration) -> Result<Self> {
        Ok(Self { connection: lend(pool, limit).await?, is_asked: true })
    }

    /// Notes that the connection has answered.
    fn answered<T>(mut self, answer: Result<T>) -> Result<T> {
        self.is_asked = matches!(answer, Err(Error::Silent));
        answer
    }
}

impl<D: Database> Drop for Held<D> {
    fn drop(&mut self) {
        if self.is_asked {
            self.connection.close_on_drop();
        }
    }
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

/// Of no interest.
impl Record for () {
    fn read(_: &dyn Columns) -> Result<Self> {
        Ok(())
    }
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
    ($sql:expr, $database:ty, $keep:expr) => {{
        let (text, args) = $sql.into_parts();
        let query: Query<'static, $database, _> = sqlx::query(AssertSqlSafe(text)).persistent($keep);
        args.into_iter().fold(query, |query, arg| match arg {
            Arg::Int(value) => query.bind(value),
            Arg::Real(value) => query.bind(value),
            Arg::Text(value) => query.bind(value),
            Arg::Bytes(value) => query.bind(value),
        })
    }};
}

/// How many rows the answer of a statement says were changed, and those that it brings.
macro_rules! collected {
    ($answer:expr) => {{
        let (mut changed, mut rows, mut answer) = (0, Vec::new(), $answer);
        while let Some(part) = answer.try_next().await? {
            match part {
                Either::Left(result) => changed += result.rows_affected(),
                Either::Right(row) => rows.push(R::read(&row)?),
            }
        }
        Ok((changed, rows))
    }};
}

impl Open<'_> {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs a statement in the caller's transaction, and says how many rows it changed.
    pub(crate) async fn execute(self, sql: Sql) -> Result<u64> {
        let limit = self.limit();
        Ok(within(limit, self.ask::<()>(sql)).await?.0)
    }

    /// As [`Self::execute`], and returns what the statement does.
    pub(crate) async fn all<R: Record>(self, sql: Sql) -> Result<Vec<R>> {
        let limit = self.limit();
        Ok(within(limit, self.ask(sql)).await?.1)
    }

    /// Runs a text of several statements without values.
    pub(crate) async fn script(self, text: &'static str) -> Result<()> {
        let limit = self.limit();
        let run = async {
            match self {
                Self::Postgres(on) => sqlx::raw_sql(text).execute(on).await.map(drop)?,
                Self::Sqlite(on) => sqlx::raw_sql(text).execute(on).await.map(drop)?,
            }
            Ok(())
        };
        within(limit, run).await
    }

    /// What is asked in a transaction may wait for other transactions. SQLite itself says when that is for too long.
    fn limit(&self) -> Duration {
        match self {
            Self::Postgres(_) => 6 * SOON,
            Self::Sqlite(_) => LATER * SOON,
        }
    }

    /// Never prepared by name on PostgreSQL: a pooler mixes up the statements of its clients.
    async fn ask<R: Record>(self, sql: Sql) -> Result<(u64, Vec<R>)> {
        let keep = self.dialect().keeps_statements();
        match self {
            Self::Postgres(on) => collected!(on.fetch_many(filled!(sql, Postgres, keep))),
            Self::Sqlite(on) => collected!(on.fetch_many(filled!(sql, Sqlite, keep))),
        }
    }
}

impl Pool {
    /// Opens a database that is there.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        crate::open::embedded(url).await
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self.connections {
            Connections::Postgres(_) => Dialect::Postgres,
            Connections::Sqlite(_) => Dialect::Sqlite,
        }
    }

    pub(crate) fn postgres(&self) -> Option<&PgPool> {
        match &self.connections {
            Connections::Postgres(pool) => Some(pool),
            Connections::Sqlite(_) => None,
        }
    }

    /// Runs a statement in a transaction of its own, and says how many rows it changed.
    pub(crate) async fn execute(&self, sql: Sql) -> Result<u64> {
        Ok(self.ask::<()>(sql).await?.0)
    }

    /// As [`Self::execute`], and returns what the statement does.
    pub(crate) async fn all<R: Record>(&self, sql: Sql) -> Result<Vec<R>> {
        Ok(self.ask(sql).await?.1)
    }

    /// The only number that a statement returns, in the column `value`.
    pub(crate) async fn number(&self, sql: Sql) -> Result<i64> {
        Ok(self.all(sql).await?.first().copied().unwrap_or_default())
    }

    async fn ask<R: Record>(&self, sql: Sql) -> Result<(u64, Vec<R>)> {
        match &self.connections {
            Connections::Postgres(pool) => {
                let limit = if sql.is_late() { LATER * self.limit } else { self.limit };
                let mut held = Held::of(pool, self.limit).await?;
                let asked = within(limit, async {
                    let mut tx = held.connection.begin_with(Dialect::Postgres.begin()).await?;
                    let answer = tx.open().ask(sql).await?;
                    tx.commit().await?;
                    Ok(answer)
                });
                let asked = asked.await;
                held.answered(asked)
            }
            Connections::Sqlite(pool) => {
                let mut held = Held::of(pool, LATER * self.limit).await?;
                let asked = within(LATER * self.limit, held.connection.open().ask(sql)).await;
                held.answered(asked)
            }
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
