//! Opens a database, and gives out its connections.

use std::{path::Path, time::Duration};

use leveret::backoff::Backoff;
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    address::{DatabaseAddress, keeps_statements, sqlite_file},
    dialect::Dialect,
    limit::{LONG, SHORT, SLOW_FACTOR, acquire, within},
    row::FromRow,
    statement::Sql,
    timed::TimedConnection,
};
use crate::Result;

/// Connections of a pool. Too few for SQLite's readers cost microseconds; a small PostgreSQL server can give one client
/// this many.
const CONNECTIONS: u32 = 8;

/// Longest wait of a connection of SQLite for another process that has the file locked.
const BUSY: Duration = Duration::from_secs(30);

/// A pool of connections, with a time limit on every statement.
#[derive(Clone, Debug)]
pub struct Pool {
    connections: Connections,
    /// True if PostgreSQL keeps statements prepared, because the address asks for it.
    keeps_statements: bool,
    pub(crate) limit: Duration,
}

#[derive(Clone, Debug)]
enum Connections {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        Self { connections: Connections::Postgres(pool), keeps_statements: false, limit: SHORT }
    }
}

impl From<SqlitePool> for Pool {
    fn from(pool: SqlitePool) -> Self {
        Self { connections: Connections::Sqlite(pool), keeps_statements: true, limit: SHORT }
    }
}

/// Makes a type with a field `pool` from pools of sqlx, and gives it its time limit.
macro_rules! from_pools {
    ($name:ident) => {
        impl From<&sqlx::PgPool> for $name {
            fn from(pool: &sqlx::PgPool) -> Self {
                Self { pool: pool.clone().into() }
            }
        }

        impl From<&sqlx::SqlitePool> for $name {
            fn from(pool: &sqlx::SqlitePool) -> Self {
                Self { pool: pool.clone().into() }
            }
        }

        impl From<&Self> for $name {
            fn from(other: &Self) -> Self {
                other.clone()
            }
        }

        impl $name {
            /// Sets how long a statement on PostgreSQL may take, and the wait for a connection before it: 5 s by
            /// default. Statements that may read or write all rows get twelve times as long.
            ///
            /// A statement that takes longer fails with [`Error::Silent`](crate::Error::Silent), and its connection is
            /// closed. Statements in a transaction of yours have 30 s, because they may wait for other transactions.
            #[must_use]
            pub fn statement_timeout(mut self, limit: std::time::Duration) -> Self {
                self.pool.limit = limit;
                self
            }
        }
    };
}

pub(crate) use from_pools;

/// Each fails with [`Error::Database`](crate::Error::Database) or [`Error::Silent`](crate::Error::Silent).
impl Pool {
    /// Opens a database: `sqlite:PATH` or a path without `:`, `=`, `?` and `@`, which is created if it is missing, or
    /// `postgres://…`, which must exist. With `?statement-cache-capacity=100` PostgreSQL keeps statements prepared,
    /// which a pooler of transactions must not be given.
    ///
    /// Any other address fails with [`Error::Address`](crate::Error::Address), a file that cannot be created with
    /// [`Error::Folder`](crate::Error::Folder).
    pub async fn open(url: &str) -> Result<Self> {
        match DatabaseAddress::parse(url)? {
            DatabaseAddress::Postgres => Self::open_postgres(url.trim()).await,
            DatabaseAddress::Sqlite(path) => Self::open_sqlite(&path).await,
        }
    }

    async fn open_postgres(url: &str) -> Result<Self> {
        let options = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(SHORT);
        match options.connect(url).await {
            // A pool reports only how long it waited for a connection, not why there is none.
            Err(sqlx::Error::PoolTimedOut) => {
                within(SHORT, async { Ok(PgConnection::connect(url).await?) }).await?;
                Err(sqlx::Error::PoolTimedOut.into())
            }
            opened => Ok(Self { keeps_statements: keeps_statements(url), ..opened?.into() }),
        }
    }

    async fn open_sqlite(path: &Path) -> Result<Self> {
        let options = sqlite_options(&sqlite_file(path)?);
        // Connected once outside the pool, because a pool retries and hides the reason.
        within(LONG, first_connection(&options)).await?;
        Ok(sqlite_pool(CONNECTIONS, options).into())
    }

    /// Opens a database as [`open`](Self::open) does, and returns a pool for readers and a pool for writers.
    ///
    /// On SQLite the second one has a single connection, so that the writers of this process queue for it instead of
    /// polling for the lock of the file. On PostgreSQL both are the same pool.
    pub async fn open_with_writers(url: &str) -> Result<(Self, Self)> {
        let readers = Self::open(url).await?;
        let writers = match &readers.connections {
            Connections::Postgres(_) => readers.clone(),
            Connections::Sqlite(pool) => sqlite_pool(1, (*pool.connect_options()).clone()).into(),
        };
        Ok((readers, writers))
    }

    /// Closes all connections once they are idle. Later requests for a connection fail.
    pub async fn close(&self) {
        match &self.connections {
            Connections::Postgres(pool) => pool.close().await,
            Connections::Sqlite(pool) => pool.close().await,
        }
    }

    /// The kind of database.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
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

    /// Takes a connection from the pool.
    pub async fn acquire(&self) -> Result<TimedConnection> {
        Ok(match &self.connections {
            Connections::Postgres(pool) => {
                TimedConnection::postgres(acquire(pool, self.limit).await?, self.limit, self.keeps_statements)
            }
            Connections::Sqlite(pool) => {
                let connection = acquire(pool, self.limit.saturating_mul(SLOW_FACTOR)).await?;
                TimedConnection::sqlite(connection, self.limit)
            }
        })
    }

    /// Runs a statement in a transaction of its own, and returns how many rows it changed.
    pub async fn execute(&self, sql: Sql) -> Result<u64> {
        sql.execute(&mut self.acquire().await?).await
    }

    /// Runs a statement in a transaction of its own, and reads its rows.
    pub async fn all<T: FromRow>(&self, sql: Sql) -> Result<Vec<T>> {
        sql.all(&mut self.acquire().await?).await
    }
}

/// Connects once. SQLite does not wait for its busy timeout where several processes set the journal mode of a new file.
async fn first_connection(options: &SqliteConnectOptions) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500)).jitter();
    loop {
        match options.connect().await {
            Err(error) if is_busy(&error) => backoff.sleep().await,
            connected => return Ok(connected?.close().await?),
        }
    }
}

/// Returns whether SQLite refuses with `SQLITE_BUSY` or one of its extended codes, whose last byte is 5.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}

fn sqlite_pool(connections: u32, options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new().max_connections(connections).acquire_timeout(BUSY).connect_lazy_with(options)
}

/// FULL, because a dead letter is acked to the broker after the commit, and must then survive a power cut.
fn sqlite_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(BUSY)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-16384")
        .pragma("mmap_size", "268435456")
}
