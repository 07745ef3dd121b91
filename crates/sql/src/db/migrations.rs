//! Tables are made and brought up to date, each part's apart from all others.

use sqlx::Connection;

use super::{Connections, Held, Pool, Sealed};
use crate::{
    Error, Result,
    lent::{LATER, within},
    open::Dialect,
    sql::{Sql, now_ms},
};

/// A part whose tables can live alone: its name, and its migrations in order. One that was released is never changed;
/// the first makes schema 1.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) sqlite: &'static [&'static str],
    pub(crate) postgres: &'static [&'static str],
}

/// One at a time, whoever comes; the numbers are "leve" and one that no order key is likely to have.
const ALONE: &str = "SELECT pg_advisory_xact_lock(1818588773, -1)";

impl Part {
    /// All in one transaction.
    pub(crate) async fn migrate(&self, pool: &Pool) -> Result<()> {
        let limit = LATER * pool.limit;
        match &pool.connections {
            Connections::Postgres(on) => {
                let mut held = Held::of(on, pool.limit).await?;
                let migrated = within(limit, async {
                    let mut tx = held.connection.begin_with(Dialect::Postgres.begin()).await?;
                    tx.open().execute(Sql::new(ALONE)).await?;
                    self.apply(&mut tx).await?;
                    Ok(tx.commit().await?)
                });
                let migrated = migrated.await;
                held.answered(migrated)
            }
            Connections::Sqlite(on) => {
                let mut held = Held::of(on, limit).await?;
                let migrated = within(limit, async {
                    let mut tx = held.connection.begin_with(Dialect::Sqlite.begin()).await?;
                    self.apply(&mut tx).await?;
                    Ok(tx.commit().await?)
                });
                let migrated = migrated.await;
                held.answered(migrated)
            }
        }
    }

    async fn apply(&self, on: &mut impl Sealed) -> Result<()> {
        let (table, migrations) = (self.table(), self.migrations(on.open().dialect()));
        let columns = "version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL";
        on.open().execute(Sql::new(format!("CREATE TABLE IF NOT EXISTS {table} ({columns})"))).await?;
        let found: i64 = on.open().all(self.version()).await?.first().copied().unwrap_or_default();
        for (version, migration) in (1i64..).zip(migrations).skip_while(|(version, _)| *version <= found) {
            on.open().script(migration).await?;
            let note = format!("INSERT INTO {table} (version, applied_at) VALUES ($1, $2)");
            on.open().execute(Sql::new(note).arg(version).arg(now_ms())).await?;
        }
        known(found, migrations)
    }

    /// Whether the tables are there, and of the kind that is known here.
    pub(crate) async fn check(&self, pool: &Pool) -> Result<()> {
        let migrations = self.migrations(pool.dialect());
        let found = pool.number(self.version()).await.map_err(|error| self.explained(error))?;
        if found < migrations.len() as i64 { Err(self.missing()) } else { known(found, migrations) }
    }

    /// An error of a statement about this part's tables: whether it is that they are missing.
    pub(crate) fn explained(&self, error: Error) -> Error {
        if error.is_missing_table() { self.missing() } else { error }
    }

    fn missing(&self) -> Error {
        Error::NoTables { part: self.name }
    }

    fn table(&self) -> String {
        format!("leveret_{}_migrations", self.name)
    }

    fn version(&self) -> Sql {
        Sql::new(format!("SELECT coalesce(max(version), 0) AS value FROM {}", self.table()))
    }

    fn migrations(&self, dialect: Dialect) -> &'static [&'static str] {
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
