//! A connection on loan: what is asked on it is answered in time, or fails.
//!
//! A database that is halted, or behind a network that loses all in silence, says nothing for ever. A connection that
//! was left in the middle of something is closed and never used again: its answer may come yet, or never.
//!
//! On PostgreSQL each statement runs in a transaction and no statement is prepared by name. A pooler such as PgBouncer
//! gives each transaction another session, so that nothing that outlives a transaction may be relied on or left behind.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::TryStreamExt;
use sqlx::{
    Any, AnyConnection, AnyPool, AssertSqlSafe, Connection, Database, Either, Executor, Pool, any::AnyRow,
    pool::PoolConnection,
};
use tokio::time::timeout;

use crate::{Error, Result, open::Dialect, sql::Sql};

/// For statements that read or write few rows.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// How much longer those take that may read or write all rows that there are, or wait for them.
pub(crate) const LATER: u32 = 12;
const LATE: Duration = SOON.saturating_mul(LATER);

/// A connection of a pool, in time.
///
/// A pool says only how long it has waited, not why there is no connection. Another attempt says why: one of each pool at a
/// time, because it is beside the connections that the pool may have.
pub(crate) async fn lend<D: Database>(pool: &Pool<D>, limit: Duration) -> Result<PoolConnection<D>> {
    match timeout(limit, pool.acquire()).await {
        Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {}
        Ok(lent) => return Ok(lent?),
    }
    let options = pool.connect_options();
    let Some(_probe) = Probe::begin(Arc::as_ptr(&options).addr()) else { return Err(sqlx::Error::PoolTimedOut.into()) };
    match timeout(limit, Box::pin(<D::Connection as Connection>::connect_with(&options))).await {
        Ok(Ok(_)) => Err(sqlx::Error::PoolTimedOut.into()),
        Ok(Err(reason)) => Err(reason.into()),
        Err(_) => Err(Error::Silent),
    }
}

/// The pools whose databases are asked why there is no connection, by the address of their options.
static PROBES: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

struct Probe(usize);

impl Probe {
    /// None if this pool has one already.
    fn begin(pool: usize) -> Option<Self> {
        let is_first = PROBES.lock().unwrap_or_else(PoisonError::into_inner).insert(pool);
        // Made only then: its drop takes the pool out, and needs the lock.
        is_first.then(|| Self(pool))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        PROBES.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// The answer of a database, in time.
pub(crate) async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, answer).await.unwrap_or(Err(Error::Silent))
}

#[derive(Debug)]
pub(crate) struct Lent {
    connection: PoolConnection<Any>,
    dialect: Dialect,
    is_asked: bool,
    in_transaction: bool,
}

impl Lent {
    pub(crate) async fn from(pool: &AnyPool, dialect: Dialect) -> Result<Self> {
        Ok(Self { connection: lend(pool, soon(dialect)).await?, dialect, is_asked: false, in_transaction: false })
    }

    /// Rolled back unless it is [committed](Self::commit).
    pub(crate) async fn begin(mut self) -> Result<Self> {
        self.in_transaction = true;
        self.run(self.dialect.begin(), false).await?;
        Ok(self)
    }

    /// If this fails, the transaction may be committed all the same.
    pub(crate) async fn commit(mut self) -> Result<()> {
        self.run("COMMIT", false).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Statements without places.
    pub(crate) async fn run(&mut self, text: &'static str, late: bool) -> Result<()> {
        self.is_asked = true;
        within(limit(self.dialect, late), async { Ok(run(&mut self.connection, text).await?) }).await?;
        self.is_asked = false;
        Ok(())
    }

    /// How many rows a statement changed, and those that it returns.
    pub(crate) async fn ask(&mut self, sql: Sql) -> Result<(u64, Vec<AnyRow>)> {
        let (limit, alone) = (limit(self.dialect, sql.is_late()), !self.in_transaction);
        self.is_asked = true;
        let answer = async {
            Ok(match self.dialect {
                Dialect::Postgres if alone => ask_alone(&mut self.connection, sql).await,
                dialect => ask(&mut self.connection, sql, dialect).await,
            })
        };
        // Boxed, because it would make the futures of all who ask as large as it is.
        let answer = within(limit, Box::pin(answer)).await?;
        self.is_asked = false;
        Ok(answer?)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.is_asked || self.in_transaction {
            self.connection.close_on_drop();
        }
    }
}

/// SQLite itself says when another process has the file for too long.
fn soon(dialect: Dialect) -> Duration {
    match dialect {
        Dialect::Sqlite => LATE,
        Dialect::Postgres => SOON,
    }
}

fn limit(dialect: Dialect, late: bool) -> Duration {
    if late { LATE } else { soon(dialect) }
}

async fn run(on: &mut AnyConnection, text: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(text)).execute(on).await.map(drop)
}

/// In a transaction of its own.
async fn ask_alone(on: &mut AnyConnection, sql: Sql) -> sqlx::Result<(u64, Vec<AnyRow>)> {
    run(on, Dialect::Postgres.begin()).await?;
    let answer = ask(on, sql, Dialect::Postgres).await;
    let ended = run(on, if answer.is_ok() { "COMMIT" } else { "ROLLBACK" }).await;
    let answer = answer?;
    ended.map(|()| answer)
}

async fn ask(on: &mut AnyConnection, sql: Sql, dialect: Dialect) -> sqlx::Result<(u64, Vec<AnyRow>)> {
    let (mut changed, mut rows) = (0, Vec::new());
    let mut answer = on.fetch_many(sql.query(dialect));
    while let Some(part) = answer.try_next().await? {
        match part {
            Either::Left(result) => changed += result.rows_affected(),
            Either::Right(row) => rows.push(row),
        }
    }
    Ok((changed, rows))
}
