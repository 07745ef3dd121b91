//! Runs a statement on a connection of sqlx, of either database.

use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Either, Executor, PgConnection, Postgres, Sqlite, SqliteConnection, Transaction, query::Query,
};

use super::{
    dialect::Dialect,
    limit::{LONG, SHORT, within},
    row::Row,
    statement::{Arg, Sql},
};
use crate::Result;

/// The limit of a statement in the user's transaction on PostgreSQL. It may wait for other transactions.
const IN_TRANSACTION: Duration = SHORT.saturating_mul(6);

/// The target of an enqueue or a note: a transaction or a connection of sqlx, on PostgreSQL or SQLite.
///
/// This trait is sealed.
pub trait Connection: Sealed + Send {}

impl<C: Sealed + Send> Connection for C {}

pub trait Sealed {
    fn connection(&mut self) -> ConnectionMut<'_>;
}

impl Sealed for PgConnection {
    fn connection(&mut self) -> ConnectionMut<'_> {
        ConnectionMut::Postgres(self)
    }
}

impl Sealed for Transaction<'_, Postgres> {
    fn connection(&mut self) -> ConnectionMut<'_> {
        ConnectionMut::Postgres(self)
    }
}

impl Sealed for SqliteConnection {
    fn connection(&mut self) -> ConnectionMut<'_> {
        ConnectionMut::Sqlite(self)
    }
}

impl Sealed for Transaction<'_, Sqlite> {
    fn connection(&mut self) -> ConnectionMut<'_> {
        ConnectionMut::Sqlite(self)
    }
}

/// A borrowed connection of either database.
#[derive(Debug)]
pub enum ConnectionMut<'c> {
    Postgres(&'c mut PgConnection),
    Sqlite(&'c mut SqliteConnection),
}

/// The number of rows that a statement changed, and the rows that it returned.
pub(super) type StatementResult = (u64, Vec<Row>);

/// Runs a statement on a connection of one of the databases.
macro_rules! fetch {
    ($on:expr, $sql:expr, $database:ty, $row:path, $keeps:expr) => {{
        let (text, args) = $sql.into_parts();
        let query: Query<'static, $database, _> = sqlx::query(AssertSqlSafe(text)).persistent($keeps);
        let query = args.into_iter().fold(query, |query, arg| match arg {
            Arg::Int(value) => query.bind(value),
            Arg::Real(value) => query.bind(value),
            Arg::Text(value) => query.bind(value),
            Arg::Bytes(value) => query.bind(value),
        });
        let (mut changed, mut rows, mut results) = (0, Vec::new(), $on.fetch_many(query));
        while let Some(result) = results.try_next().await? {
            match result {
                Either::Left(summary) => changed += summary.rows_affected(),
                Either::Right(row) => rows.push($row(row)),
            }
        }
        Ok((changed, rows))
    }};
}

impl ConnectionMut<'_> {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs a statement in the caller's transaction, and returns how many rows it changed.
    pub(crate) async fn execute(self, sql: Sql) -> Result<u64> {
        Ok(self.ask(sql).await?.0)
    }

    /// Runs a statement in the caller's transaction, and returns its rows.
    #[cfg(feature = "inbox")]
    pub(crate) async fn rows(self, sql: Sql) -> Result<Vec<Row>> {
        Ok(self.ask(sql).await?.1)
    }

    async fn ask(mut self, sql: Sql) -> Result<StatementResult> {
        let limit = match self {
            Self::Postgres(_) => IN_TRANSACTION,
            // SQLite itself reports a lock that is held for too long.
            Self::Sqlite(_) => LONG,
        };
        let keeps = self.dialect() == Dialect::Sqlite;
        within(limit, async { Ok(self.fetch(sql, keeps).await?) }).await
    }

    /// Runs a statement without a time limit. `keeps` leaves it prepared: a pooler mixes up the prepared statements of its
    /// clients.
    pub(super) async fn fetch(&mut self, sql: Sql, keeps: bool) -> sqlx::Result<StatementResult> {
        match self {
            Self::Postgres(on) => fetch!((&mut **on), sql, Postgres, Row::Postgres, keeps),
            Self::Sqlite(on) => fetch!((&mut **on), sql, Sqlite, Row::Sqlite, keeps),
        }
    }

    /// Runs a statement in a transaction of its own without a time limit. On SQLite each statement is one.
    pub(super) async fn fetch_alone(&mut self, sql: Sql, keeps: bool) -> sqlx::Result<StatementResult> {
        if self.dialect() == Dialect::Sqlite {
            return self.fetch(sql, keeps).await;
        }
        self.run(Dialect::Postgres.begin()).await?;
        let answer = self.fetch(sql, keeps).await;
        let ended = self.run(if answer.is_ok() { "COMMIT" } else { "ROLLBACK" }).await;
        let answer = answer?;
        ended.map(|()| answer)
    }

    /// Runs a text of statements without values, without a time limit.
    pub(super) async fn run(&mut self, text: &'static str) -> sqlx::Result<()> {
        match self {
            Self::Postgres(on) => sqlx::raw_sql(text).execute(&mut **on).await.map(drop),
            Self::Sqlite(on) => sqlx::raw_sql(text).execute(&mut **on).await.map(drop),
        }
    }
}
