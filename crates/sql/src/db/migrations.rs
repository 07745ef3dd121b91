//! Creates tables, and updates old ones.

use leveret::time::now_ms;

use super::{dialect::Dialect, pool::Pool, statement::Sql, timed::TimedConnection};
use crate::{Error, Result};

/// Locks out other processes that migrate tables of a user's database. The numbers are "leve" and a value that is
/// unlikely as an order key.
pub(crate) const TABLES_LOCK: &str = "SELECT pg_advisory_xact_lock(1818588773, -1)";

/// The migrations of one set of tables. A released migration is never changed; the first one makes schema 1.
#[derive(Clone, Copy, Debug)]
pub struct Migrations {
    /// The tables, as named in the command `leveret <name> migrate`.
    pub name: &'static str,
    /// The table that records the applied migrations.
    pub table: &'static str,
    /// Locks out other processes on PostgreSQL until the transaction ends.
    pub lock: &'static str,
    /// For SQLite, in order.
    pub sqlite: &'static [&'static str],
    /// For PostgreSQL, in order.
    pub postgres: &'static [&'static str],
}

impl Migrations {
    /// Applies the missing migrations in one transaction. Any number of processes may do so at the same time.
    ///
    /// # Errors
    ///
    /// [`Error::Newer`] for tables of a newer Leveret, [`Error::Database`], [`Error::Silent`].
    pub async fn migrate(&self, pool: &Pool) -> Result<()> {
        let mut tx = pool.acquire().await?.begin().await?;
        if tx.dialect() == Dialect::Postgres {
            Sql::new(self.lock).slow().execute(&mut tx).await?;
        }
        let (table, migrations) = (self.table, self.of(tx.dialect()));
        let columns = "version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL";
        Sql::new(format!("CREATE TABLE IF NOT EXISTS {table} ({columns})")).slow().execute(&mut tx).await?;
        let found = self.version(&mut tx).await?;
        for (version, migration) in (1i64..).zip(migrations).skip_while(|(version, _)| *version <= found) {
            tx.run(migration, true).await?;
            let note = format!("INSERT INTO {table} (version, applied_at) VALUES ($1, $2)");
            Sql::new(note).arg(version).arg(now_ms()).execute(&mut tx).await?;
        }
        known(found, migrations)?;
        tx.commit().await
    }

    /// Checks that the tables exist and have the schema that this version knows.
    ///
    /// # Errors
    ///
    /// [`Error::NoTables`], [`Error::Newer`], [`Error::Database`], [`Error::Silent`].
    pub async fn check(&self, pool: &Pool) -> Result<()> {
        let migrations = self.of(pool.dialect());
        let found = self.version(&mut pool.acquire().await?).await.map_err(|error| self.explain(error))?;
        if found < migrations.len() as i64 { Err(self.missing()) } else { known(found, migrations) }
    }

    /// Turns the error of a statement on missing tables into [`Error::NoTables`].
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        if error.is_missing_table() { self.missing() } else { error }
    }

    fn missing(&self) -> Error {
        Error::NoTables { part: self.name }
    }

    async fn version(&self, on: &mut TimedConnection) -> Result<i64> {
        Sql::new(format!("SELECT coalesce(max(version), 0) FROM {}", self.table)).one(on).await
    }

    fn of(&self, dialect: Dialect) -> &'static [&'static str] {
        match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Postgres => self.postgres,
        }
    }
}

fn known(found: i64, migrations: &[&str]) -> Result<()> {
    let known = migrations.len() as i64;
    if found > known { Err(Error::Newer { found, known }) } else { Ok(()) }
}
