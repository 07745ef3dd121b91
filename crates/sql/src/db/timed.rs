//! A connection of a pool whose every statement ends within a time limit.
//!
//! A database that is halted, or behind a network that drops all packets, neither answers nor fails. A connection with
//! an unanswered statement is closed and never used again: its answer may still come, or never.
//!
//! On PostgreSQL each statement runs in a transaction, and no statement is prepared by name unless the address asks for it. A
//! pooler such as PgBouncer gives each transaction another session, so nothing may outlive a transaction.

use std::time::Duration;

use sqlx::{Postgres, Sqlite, pool::PoolConnection};

use super::{
    connection::{ConnectionMut, StatementResult},
    dialect::Dialect,
    limit::{SLOW_FACTOR, within},
    row::{ColumnValue, FromRow, Row},
    statement::Sql,
};
use crate::Result;

/// A connection of a pool, with a time limit on every statement.
#[derive(Debug)]
pub struct TimedConnection {
    connection: PooledConnection,
    limit: Duration,
    /// True if statements stay prepared. On SQLite they always do.
    keeps_statements: bool,
    /// True if a statement has no answer yet.
    is_asked: bool,
    in_transaction: bool,
}

#[derive(Debug)]
enum PooledConnection {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl PooledConnection {
    fn connection(&mut self) -> ConnectionMut<'_> {
        match self {
            Self::Postgres(connection) => ConnectionMut::Postgres(connection),
            Self::Sqlite(connection) => ConnectionMut::Sqlite(connection),
        }
    }
}

impl TimedConnection {
    pub(super) fn postgres(connection: PoolConnection<Postgres>, limit: Duration, keeps_statements: bool) -> Self {
        Self::new(PooledConnection::Postgres(connection), limit, keeps_statements)
    }

    pub(super) fn sqlite(connection: PoolConnection<Sqlite>, limit: Duration) -> Self {
        Self::new(PooledConnection::Sqlite(connection), limit, true)
    }

    fn new(connection: PooledConnection, limit: Duration, keeps_statements: bool) -> Self {
        Self { connection, limit, keeps_statements, is_asked: false, in_transaction: false }
    }

    /// The kind of database.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.connection {
            PooledConnection::Postgres(_) => Dialect::Postgres,
            PooledConnection::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// The connection of a transaction that has begun, for statements of the user. They have no time limit here.
    pub(crate) fn of_user(&mut self) -> ConnectionMut<'_> {
        self.connection.connection()
    }

    /// Begins a transaction, which is rolled back unless it is [committed](Self::commit).
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database), [`Error::Silent`](crate::Error::Silent).
    pub async fn begin(mut self) -> Result<Self> {
        self.in_transaction = true;
        self.run(self.dialect().begin(), false).await?;
        Ok(self)
    }

    /// Begins a transaction like [`begin`](Self::begin), whose statements find their rows by keys.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin).
    pub async fn begin_by_keys(mut self) -> Result<Self> {
        self.in_transaction = true;
        self.run(self.dialect().begin_by_keys(), false).await?;
        Ok(self)
    }

    /// Begins several reads of rows by their keys. On PostgreSQL they are one transaction, which saves round trips. On SQLite
    /// each is its own, because a transaction that may write would wait for others.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin).
    pub async fn begin_reads(self) -> Result<Self> {
        if self.dialect() == Dialect::Sqlite { Ok(self) } else { self.begin_by_keys().await }
    }

    /// Ends the reads.
    ///
    /// # Errors
    ///
    /// As for [`commit`](Self::commit).
    pub async fn end_reads(self) -> Result<()> {
        if self.in_transaction { self.commit().await } else { Ok(()) }
    }

    /// Commits the transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database), [`Error::Silent`](crate::Error::Silent). The transaction may be
    /// committed nevertheless.
    pub async fn commit(mut self) -> Result<()> {
        self.run("COMMIT", false).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Runs a text of statements without values. `is_slow` gives it the longer limit.
    pub(super) async fn run(&mut self, text: &'static str, is_slow: bool) -> Result<()> {
        let limit = self.limit(is_slow);
        self.is_asked = true;
        let mut on = self.connection.connection();
        let answer = within(limit, Box::pin(async { Ok(on.run(text).await) })).await?;
        self.is_asked = false;
        Ok(answer?)
    }

    /// Runs a statement, in a transaction of its own unless one has begun.
    async fn ask(&mut self, sql: Sql) -> Result<StatementResult> {
        let (limit, keeps) = (self.limit(sql.is_slow()), self.keeps_statements);
        let in_transaction = self.in_transaction;
        self.is_asked = true;
        let mut on = self.connection.connection();
        let answer =
            async { Ok(if in_transaction { on.fetch(sql, keeps).await } else { on.fetch_alone(sql, keeps).await }) };
        // Boxed, because otherwise the futures of all callers would be as large as this one.
        let answer = within(limit, Box::pin(answer)).await?;
        // A statement that stays prepared may no longer match its tables, and fails until the connection is closed.
        self.is_asked = answer.is_err() && keeps && self.dialect() == Dialect::Postgres;
        Ok(answer?)
    }

    fn limit(&self, is_slow: bool) -> Duration {
        // SQLite itself reports a lock that another process holds for too long.
        let is_slow = is_slow || self.dialect() == Dialect::Sqlite;
        if is_slow { self.limit.saturating_mul(SLOW_FACTOR) } else { self.limit }
    }
}

impl Drop for TimedConnection {
    fn drop(&mut self) {
        if self.is_asked || self.in_transaction {
            match &mut self.connection {
                PooledConnection::Postgres(connection) => connection.close_on_drop(),
                PooledConnection::Sqlite(connection) => connection.close_on_drop(),
            }
        }
    }
}

/// Each fails with [`Error::Database`](crate::Error::Database) or [`Error::Silent`](crate::Error::Silent).
impl Sql {
    /// Runs the statement, and returns how many rows it changed.
    pub async fn execute(self, on: &mut TimedConnection) -> Result<u64> {
        Ok(on.ask(self).await?.0)
    }

    /// Runs the statement, and returns its rows.
    pub async fn rows(self, on: &mut TimedConnection) -> Result<Vec<Row>> {
        Ok(on.ask(self).await?.1)
    }

    /// Runs the statement, and reads its rows.
    pub async fn all<T: FromRow>(self, on: &mut TimedConnection) -> Result<Vec<T>> {
        Ok(self.rows(on).await?.iter().map(T::from_row).collect::<sqlx::Result<_>>()?)
    }

    /// Runs the statement, and reads its first row if it has one.
    pub async fn maybe<T: FromRow>(self, on: &mut TimedConnection) -> Result<Option<T>> {
        Ok(self.rows(on).await?.first().map(T::from_row).transpose()?)
    }

    /// Runs the statement, and reads the first column of its first row.
    pub async fn one<T: for<'r> ColumnValue<'r>>(self, on: &mut TimedConnection) -> Result<T> {
        let rows = self.rows(on).await?;
        Ok(rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?)
    }
}
