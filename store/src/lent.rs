//! A connection on loan: what is asked on it is answered in time, or fails.
//!
//! A database that is halted, or behind a network that loses all in silence, says nothing for ever. A connection that
//! was left in the middle of something is closed and never used again: its answer may come yet, or never.

use std::time::Duration;

use sqlx::{Any, AnyConnection, AnyPool, AssertSqlSafe, pool::PoolConnection};
use tokio::time::timeout;

use crate::{Error, Result};

/// For statements that read or write few rows.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// For those that may read or write all rows that there are, and for what waits for them.
pub(crate) const LATE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Lent {
    connection: PoolConnection<Any>,
    soon: Duration,
    is_asked: bool,
    in_transaction: bool,
}

impl Lent {
    pub(crate) async fn from(pool: &AnyPool, soon: Duration) -> Result<Self> {
        Ok(Self { connection: pool.acquire().await?, soon, is_asked: false, in_transaction: false })
    }

    /// Rolled back unless it is [committed](Self::commit).
    pub(crate) async fn begin(mut self, text: &'static str) -> Result<Self> {
        self.in_transaction = true;
        self.run(text, false).await?;
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
        self.ask(late, |on| sqlx::raw_sql(AssertSqlSafe(text)).execute(on)).await.map(drop)
    }

    pub(crate) async fn ask<'a, T, F>(
        &'a mut self,
        late: bool,
        ask: impl FnOnce(&'a mut AnyConnection) -> F,
    ) -> Result<T>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        let within = if late { LATE } else { self.soon };
        self.is_asked = true;
        let answer = timeout(within, ask(&mut self.connection)).await.map_err(|_| Error::Silent)?;
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
