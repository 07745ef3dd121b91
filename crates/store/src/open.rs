//! The database of the server, with one pool for readers and one for writers.
//!
//! Several connections read at the same time. On PostgreSQL and SQLite alike one process at a time writes under a
//! [`WriteLock`], so the data that a writer has read stays valid until it commits. Two servers that record status updates of
//! one job cannot lose one.

use std::fmt;

use leveret_sql::{
    Result,
    db::{Dialect, Migrations, Pool, Sql, TimedConnection},
};

/// The advisory locks of this crate on PostgreSQL begin with "leve", to stay apart from other users of the database.
const LOCKS: i64 = 0x6c65_7665_0000_0000;

const MIGRATIONS: Migrations = Migrations {
    name: "store",
    table: "leveret_migrations",
    // `LOCKS | 1`.
    lock: "SELECT pg_advisory_xact_lock(7810779304907767809)",
    sqlite: &[
        include_str!("../migrations/sqlite/1.sql"),
        include_str!("../migrations/sqlite/2.sql"),
        include_str!("../migrations/sqlite/3.sql"),
    ],
    postgres: &[
        include_str!("../migrations/postgres/1.sql"),
        include_str!("../migrations/postgres/2.sql"),
        include_str!("../migrations/postgres/3.sql"),
    ],
};

/// An open database. Clones share its connections.
///
/// See the [crate](crate) for an example.
#[derive(Clone)]
pub struct Store {
    readers: Pool,
    writers: Pool,
}

/// A part of the database that one writer at a time may change. The numbers are advisory locks of PostgreSQL; 1 is the
/// lock of the migrations.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WriteLock {
    Status = 2,
    Idempotency = 3,
    Dead = 4,
    Limits = 5,
}

impl Store {
    /// Opens a database, and creates or updates Leveret's tables in it.
    ///
    /// `sqlite:PATH`, or a bare path without `:`, `=`, `?` and `@`, is an SQLite file, which is created if it is missing.
    /// `postgres://…` or `postgresql://…` is a PostgreSQL database, which must exist. Several servers may open one database
    /// at the same time.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("leveret.db").display().to_string();
    /// let store = leveret_store::Store::open(&path).await?;
    /// assert!(leveret_store::Store::open("mysql://localhost/db").await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Address`](crate::Error::Address) for any other address, [`Error::Folder`](crate::Error::Folder) for a
    /// file that cannot be created, [`Error::Newer`](crate::Error::Newer) for tables of a newer Leveret,
    /// [`Error::Database`](crate::Error::Database) or [`Error::Silent`](crate::Error::Silent) if the database cannot be
    /// reached or changed.
    pub async fn open(url: &str) -> Result<Self> {
        let (readers, writers) = Pool::open_with_writers(url).await?;
        MIGRATIONS.migrate(&writers).await?;
        Ok(Self { readers, writers })
    }

    /// Checks that the database answers.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("leveret.db").display().to_string();
    /// # let store = leveret_store::Store::open(&path).await?;
    /// store.ping().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database) or [`Error::Silent`](crate::Error::Silent) if it does not.
    pub async fn ping(&self) -> Result<()> {
        self.readers.execute(Sql::new("SELECT 1")).await.map(drop)
    }

    /// Closes all connections once their statements have ended. Clones of this store fail from then on.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("leveret.db").display().to_string();
    /// # let store = leveret_store::Store::open(&path).await?;
    /// store.close().await;
    /// assert!(store.ping().await.is_err());
    /// # Ok(()) }
    /// ```
    pub async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.readers.dialect()
    }

    pub(crate) async fn reader(&self) -> Result<TimedConnection> {
        self.readers.acquire().await
    }

    /// A connection for statements that need no transaction.
    pub(crate) async fn writer(&self) -> Result<TimedConnection> {
        self.writers.acquire().await
    }

    /// Begins a transaction that holds a lock until it ends, so that its reads stay true.
    pub(crate) async fn write(&self, lock: WriteLock) -> Result<TimedConnection> {
        let mut tx = self.writer().await?.begin().await?;
        if tx.dialect() == Dialect::Postgres {
            let text = Sql::new("SELECT pg_advisory_xact_lock($1)").arg(LOCKS | lock as i64);
            // One transaction may change all dead letters.
            let sql = if matches!(lock, WriteLock::Dead) { text.slow() } else { text };
            sql.execute(&mut tx).await?;
        }
        Ok(tx)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dialect", &self.dialect()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_the_migrations_is_the_first_of_this_crate() {
        assert_eq!(MIGRATIONS.lock, format!("SELECT pg_advisory_xact_lock({})", LOCKS | 1));
    }
}
