//! The database: which one, how it is opened, and the two ways into it.
//!
//! Many read at once; one writes at a time and area, on PostgreSQL as on SQLite. So what a writer has read stays true
//! until it commits: two servers that hear of one job cannot lose an event between them.

use std::{
    fmt,
    fs::OpenOptions,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    AnyPool, ConnectOptions, Connection, PgConnection,
    any::{AnyPoolOptions, install_default_drivers},
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::time::timeout;

use crate::{
    Error, Result, embedded,
    lent::{Lent, SOON},
    schema,
    sql::Sql,
};

/// For SQLite readers too few is a wait of microseconds; for PostgreSQL it is what a small server can give one client.
const CONNECTIONS: u32 = 8;

/// FULL, because a dead letter is acked to the broker after the commit, and must then survive a power cut.
/// The timeout comes first: changing the journal waits for other processes that open the file.
const SQLITE_SETUP: &str = "PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                            PRAGMA cache_size = -16384; PRAGMA mmap_size = 268435456";

/// How long a connection of SQLite may wait for another process that has the file.
const BUSY: Duration = Duration::from_secs(30);

/// A process that was halted in the middle of writing must not hold up the others for ever: hence the timeouts. The level
/// is the only one under which what is read is not as old as the wait for a lock. Statements that jump through indexes
/// touch few rows, but PostgreSQL estimates many and would compile them first, which takes a hundred times as long as
/// they do. All of it ends with the transaction, because a pooler gives the session to others afterwards.
const POSTGRES_BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
                              SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL lock_timeout = '30s'; \
                              SET LOCAL jit = off";

/// The advisory locks of this crate, next to those of whatever else lives in the database: "leve".
const LOCKS: i64 = 0x6c65_7665_0000_0000;

/// An open database. Clones share its connections.
///
/// See the [crate](crate) for an example.
#[derive(Clone)]
pub struct Store {
    pub(crate) dialect: Dialect,
    readers: AnyPool,
    /// One connection on SQLite, so that writers of this process queue up instead of polling for the file's lock.
    writers: AnyPool,
}

/// Which SQL is spoken. Few statements need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// What is written by one at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Area {
    Schema = 1,
    Status = 2,
    Idempotency = 3,
    Dead = 4,
    Limits = 5,
}

impl Store {
    /// Opens a database, and makes or updates Leveret's tables in it.
    ///
    /// `sqlite:PATH` or a bare path is an SQLite file, created when it is missing; `postgres://…` or `postgresql://…`
    /// is a PostgreSQL database, which must be there. Several servers may open one at the same time.
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
    /// [`Error::Address`] for any other address, [`Error::Folder`] for a file in no folder, [`Error::Newer`] for tables
    /// of a newer Leveret, [`Error::Database`] if it cannot be reached or changed.
    pub async fn open(url: &str) -> Result<Self> {
        install_default_drivers();
        let store = match address(url)? {
            Address::Sqlite(path) => {
                let file = sqlite_file(&path)?;
                // A pool keeps trying, and says only that it did.
                sqlite_options(&file).connect().await?.close().await?;
                let url = sqlite_url(&file);
                let (writers, readers) =
                    (sqlite_pool(1).connect(&url).await?, sqlite_pool(CONNECTIONS).connect_lazy(&url)?);
                Self { dialect: Dialect::Sqlite, readers, writers }
            }
            Address::Postgres => {
                let opened = pool(CONNECTIONS, SOON).connect(url).await;
                let readers = reasoned(url, opened).await?;
                Self { dialect: Dialect::Postgres, writers: readers.clone(), readers }
            }
        };
        schema::migrate(&store).await?;
        Ok(store)
    }

    /// Whether the database answers.
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
    /// [`Error::Database`] if it does not.
    pub async fn ping(&self) -> Result<()> {
        Sql::new("SELECT 1").execute(&mut self.reader().await?).await.map(drop)
    }

    /// Closes all connections, once what is under way is done. Clones of this store fail from then on.
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

    pub(crate) async fn reader(&self) -> Result<Lent> {
        Lent::from(&self.readers, self.dialect).await
    }

    /// For statements that need no transaction.
    pub(crate) async fn writer(&self) -> Result<Lent> {
        Lent::from(&self.writers, self.dialect).await
    }

    /// A transaction whose reads stay true: nobody else writes in this area until it ends.
    pub(crate) async fn write(&self, area: Area) -> Result<Lent> {
        let mut tx = self.writer().await?.begin().await?;
        if self.dialect == Dialect::Postgres {
            let lock = Sql::new("SELECT pg_advisory_xact_lock($1)").arg(LOCKS | area as i64);
            // Of dead letters all may be changed at once.
            let lock = if matches!(area, Area::Dead | Area::Schema) { lock.late() } else { lock };
            lock.execute(&mut tx).await?;
        }
        Ok(tx)
    }
}

impl Dialect {
    /// How a transaction begins that writes.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => POSTGRES_BEGIN,
        }
    }

    /// Whether a connection keeps statements prepared. A pooler mixes up those of its clients.
    pub(crate) fn keeps_statements(self) -> bool {
        self == Self::Sqlite
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

/// A database of yours.
pub(crate) async fn embedded(url: &str) -> Result<embedded::Pool> {
    Ok(match address(url)? {
        Address::Postgres => {
            let options = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(SOON);
            reasoned(url, options.connect(url).await).await?.into()
        }
        Address::Sqlite(path) => {
            let options = sqlite_options(&sqlite_file(&path)?);
            options.clone().connect().await?.close().await?;
            SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await?.into()
        }
    })
}

fn pool(connections: u32, wait: Duration) -> AnyPoolOptions {
    AnyPoolOptions::new().max_connections(connections).acquire_timeout(wait)
}

fn sqlite_pool(connections: u32) -> AnyPoolOptions {
    pool(connections, BUSY).after_connect(|connection, _| {
        Box::pin(async move { sqlx::raw_sql(SQLITE_SETUP).execute(connection).await.map(drop) })
    })
}

fn sqlite_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(BUSY)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-16384")
        .pragma("mmap_size", "268435456")
}

/// A pool says only how long it has waited for a connection, not why there is none.
async fn reasoned<P>(url: &str, opened: sqlx::Result<P>) -> sqlx::Result<P> {
    if !matches!(opened, Err(sqlx::Error::PoolTimedOut)) {
        return opened;
    }
    match timeout(SOON, PgConnection::connect(url)).await {
        Ok(Err(reason)) => Err(reason),
        _ => opened,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Sqlite(PathBuf),
    Postgres,
}

fn address(url: &str) -> Result<Address> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Address::Postgres);
    }
    let path = match url.strip_prefix("sqlite:") {
        // `sqlite:///var/lib/x.db` is how other tools write it; their parameters would not be heeded.
        Some(path) if !path.contains('?') => path.strip_prefix("//").unwrap_or(path),
        None if !url.contains("://") => url,
        _ => return Err(Error::Address),
    };
    // One in memory would be another for each connection.
    if path.is_empty() || path == ":memory:" { Err(Error::Address) } else { Ok(Address::Sqlite(path.into())) }
}

/// The file, which is made if it is missing: readable by its user alone, because payloads hold secrets. SQLite gives the
/// files beside it the same mode. The path is absolute, because a relative one is no path in a URL.
fn sqlite_file(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |source| Error::Folder { path: path.into(), source };
    let file = folder.canonicalize().map_err(failed)?.join(path.file_name().ok_or(Error::Address)?);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(&file) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(file),
    }
}

fn sqlite_url(file: &Path) -> String {
    let encode = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => char::from(*byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    let path: String = file.as_os_str().as_encoded_bytes().iter().map(encode).collect();
    format!("sqlite://{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_one_of_two_schemes() {
        let file = |path: &str| Some(Address::Sqlite(path.into()));
        for (url, expected) in [
            ("sqlite:leveret.db", file("leveret.db")),
            ("sqlite:/var/lib/leveret.db", file("/var/lib/leveret.db")),
            ("sqlite:///var/lib/leveret.db", file("/var/lib/leveret.db")),
            ("data/my leveret.db", file("data/my leveret.db")),
            ("postgres://me@localhost/jobs", Some(Address::Postgres)),
            ("postgresql://me@localhost/jobs", Some(Address::Postgres)),
            ("mysql://me@localhost/jobs", None),
            ("sqlite::memory:", None),
            ("sqlite:leveret.db?mode=ro", None),
            ("", None),
        ] {
            assert_eq!(address(url).ok(), expected, "{url}");
        }
    }
}
