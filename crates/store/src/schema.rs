//! Leveret's tables: made when they are missing, brought up to date when they are old.

use crate::{
    Error, Result, Store,
    open::{Area, Dialect},
    sql::{Sql, now_ms},
};

/// In order; one that was released is never changed. The first makes schema 1.
const SQLITE: &[&str] = &[include_str!("../migrations/sqlite/1.sql"), include_str!("../migrations/sqlite/2.sql")];
const POSTGRES: &[&str] = &[include_str!("../migrations/postgres/1.sql"), include_str!("../migrations/postgres/2.sql")];

const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS leveret_migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)";

/// All in one transaction that one process at a time has, so any number of them may start at once.
pub(crate) async fn migrate(store: &Store) -> Result<()> {
    let migrations = match store.dialect {
        Dialect::Sqlite => SQLITE,
        Dialect::Postgres => POSTGRES,
    };
    let mut tx = store.write(Area::Schema).await?;
    tx.run(TABLE, true).await?;
    let found: i64 = Sql::new("SELECT coalesce(max(version), 0) FROM leveret_migrations").one(&mut tx).await?;
    for (version, migration) in (1i64..).zip(migrations).skip_while(|(version, _)| *version <= found) {
        tx.run(migration, true).await?;
        let note = "INSERT INTO leveret_migrations (version, applied_at) VALUES ($1, $2)";
        Sql::new(note).arg(version).arg(now_ms()).execute(&mut tx).await?;
    }
    tx.commit().await?;
    let known = migrations.len() as i64;
    if found > known { Err(Error::Newer { found, known }) } else { Ok(()) }
}
