//! The outbox's tables, apart from those of the server: they may live in any database of yours.

use super::connection::{Pool, Sealed};
use crate::{
    Error, Result,
    open::Dialect,
    sql::{Sql, now_ms},
};

/// In order; one that was released is never changed. The first makes schema 1.
const SQLITE: &[&str] = &[include_str!("../../migrations/outbox/sqlite/1.sql")];
const POSTGRES: &[&str] = &[include_str!("../../migrations/outbox/postgres/1.sql")];

const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS leveret_outbox_migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)";
const VERSION: &str = "SELECT coalesce(max(version), 0) AS value FROM leveret_outbox_migrations";

/// One at a time, whoever comes; the numbers are "leve" and one that no order key is likely to have.
const ALONE: &str = "SELECT pg_advisory_xact_lock(1818588773, -1)";

/// All in one transaction.
pub(super) async fn migrate(pool: &Pool) -> Result<()> {
    match pool {
        Pool::Postgres(pool) => {
            let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            tx.open().script(ALONE).await?;
            apply(&mut tx).await?;
            tx.commit().await?;
        }
        Pool::Sqlite(pool) => {
            let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
            apply(&mut tx).await?;
            tx.commit().await?;
        }
    }
    Ok(())
}

async fn apply(on: &mut impl Sealed) -> Result<()> {
    let migrations = migrations(on.open().dialect());
    on.open().script(TABLE).await?;
    let found: i64 = on.open().all(Sql::new(VERSION)).await?.first().copied().unwrap_or_default();
    for (version, migration) in (1i64..).zip(migrations).skip_while(|(version, _)| *version <= found) {
        on.open().script(migration).await?;
        let note = "INSERT INTO leveret_outbox_migrations (version, applied_at) VALUES ($1, $2)";
        on.open().execute(Sql::new(note).arg(version).arg(now_ms())).await?;
    }
    known(found, migrations)
}

/// Whether the tables are there, and of the kind that is known here.
pub(super) async fn check(pool: &Pool) -> Result<()> {
    let migrations = migrations(pool.dialect());
    let found = pool.number(Sql::new(VERSION)).await.map_err(|error| match error {
        Error::Database(sqlx::Error::Database(_)) if !error.is_unavailable() => Error::NoOutbox,
        error => error,
    })?;
    if found < migrations.len() as i64 { Err(Error::NoOutbox) } else { known(found, migrations) }
}

fn migrations(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Sqlite => SQLITE,
        Dialect::Postgres => POSTGRES,
    }
}

fn known(found: i64, migrations: &[&str]) -> Result<()> {
    let known = migrations.len() as i64;
    if found > known { Err(Error::Newer { found, known }) } else { Ok(()) }
}
