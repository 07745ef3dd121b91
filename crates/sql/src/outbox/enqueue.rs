//! Creates the outbox, and enqueues jobs in a transaction of the user's.

use leveret::JobId;

use super::entry::OutboxEntry;
use crate::{
    Result,
    db::{Arg, Connection, ConnectionMut, Dialect, Migrations, Pool, Sql, TABLES_LOCK, chunks, from_pools, text_list},
};

pub(super) const MIGRATIONS: Migrations = Migrations {
    name: "outbox",
    table: "leveret_outbox_migrations",
    lock: TABLES_LOCK,
    sqlite: &[include_str!("../../migrations/outbox/sqlite/1.sql")],
    postgres: &[include_str!("../../migrations/outbox/postgres/1.sql")],
};

/// The outbox of a database. A [`Relay`](crate::Relay) publishes its jobs.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize, leveret::Job)] #[job(name = "email.send", queue = "email")]
/// # struct SendEmail { to: String }
/// # async fn doc(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use leveret_sql::{OutboxEntry, Outbox};
///
/// let mut tx = pool.begin().await?;
/// let job = SendEmail { to: "ada@example.org".into() };
/// Outbox::enqueue(&mut tx, &job).await?;
/// Outbox::enqueue(&mut tx, OutboxEntry::new(&job).priority(9)).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Outbox {
    pub(super) pool: Pool,
}

from_pools!(Outbox);

impl Outbox {
    /// Makes a handle of an outbox whose tables exist.
    pub fn new(pool: impl Into<Self>) -> Self {
        pool.into()
    }

    /// Opens a database for the outbox alone: `sqlite:PATH` or a path, whose file is created if it is missing, or
    /// `postgres://…`.
    ///
    /// # Errors
    ///
    /// [`Error::Address`](crate::Error::Address) for any other address, [`Error::Folder`](crate::Error::Folder) for a
    /// file that cannot be created, [`Error::Database`](crate::Error::Database) or
    /// [`Error::Silent`](crate::Error::Silent) if the database cannot be reached.
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self { pool: Pool::open(url).await? })
    }

    /// Creates the tables of the outbox in a database, or updates them. Any number of processes may do so at the same
    /// time.
    ///
    /// The tables are `leveret_outbox` and `leveret_outbox_migrations`. PostgreSQL has also the functions
    /// `leveret_enqueue` and `leveret_outbox_wake`.
    ///
    /// # Errors
    ///
    /// [`Error::Newer`](crate::Error::Newer) for tables of a newer Leveret,
    /// [`Error::Database`](crate::Error::Database).
    pub async fn migrate(pool: impl Into<Self>) -> Result<Self> {
        let outbox = pool.into();
        MIGRATIONS.migrate(&outbox.pool).await?;
        Ok(outbox)
    }

    /// Enqueues a job in a transaction, and returns the id that it will be published with.
    ///
    /// On a connection without a transaction the job is committed at once, which does not work behind a pooler in
    /// transaction mode.
    ///
    /// # Time limit
    ///
    /// Each statement of this call ends within 30 s (60 s on SQLite), because it may wait for other transactions. Wrap
    /// the call into [`tokio::time::timeout`] for a shorter limit. The `BEGIN` and `COMMIT` of your transaction and its
    /// other statements are yours: they have no limit unless you set one.
    ///
    /// # Errors
    ///
    /// * [`Error::InvalidEntry`](crate::Error::InvalidEntry), [`Error::Encode`](crate::Error::Encode): the job could
    ///   never be published. Nothing was written, and the transaction can continue.
    /// * [`Error::NoTables`](crate::Error::NoTables), [`Error::Database`](crate::Error::Database).
    /// * [`Error::Silent`](crate::Error::Silent): the database did not answer in time.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, or fails with [`Error::Silent`](crate::Error::Silent), the job may
    /// or may not be in the transaction. Roll the transaction back, which its drop does.
    pub async fn enqueue(on: &mut impl Connection, job: impl Into<OutboxEntry>) -> Result<JobId> {
        let mut ids = enqueue_rows(on, vec![job.into()]).await?;
        Ok(ids.pop().unwrap_or_else(JobId::mint))
    }

    /// Enqueues many jobs, all or none, which is faster than one by one. Returns their ids in order.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_all<E: Into<OutboxEntry>>(
        on: &mut impl Connection,
        jobs: impl IntoIterator<Item = E>,
    ) -> Result<Vec<JobId>> {
        enqueue_rows(on, jobs.into_iter().map(Into::into).collect()).await
    }
}

async fn enqueue_rows(on: &mut impl Connection, entries: Vec<OutboxEntry>) -> Result<Vec<JobId>> {
    entries.iter().try_for_each(OutboxEntry::check)?;
    let rows = entries.into_iter().map(row).collect::<Result<Vec<_>>>()?;
    let keys: Vec<_> = rows.iter().filter_map(|row| row.order_key.as_deref()).collect();
    if on.connection().dialect() == Dialect::Postgres && !keys.is_empty() {
        lock(on.connection(), &keys).await?;
    }
    for chunk in chunks(&rows) {
        let mut insert =
            Sql::new("INSERT INTO leveret_outbox (id, job, queue, payload, options, order_key, enqueued_at) VALUES ");
        insert.values(chunk.iter().map(Row::args));
        on.connection().execute(insert).await.map_err(|error| MIGRATIONS.explain(error))?;
    }
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// Locks order keys until the commit, so that the numbers of one key are in the order of the commits. All calls lock
/// keys in the same order, so that two of them cannot end in a deadlock.
async fn lock(on: ConnectionMut<'_>, keys: &[&str]) -> Result<()> {
    let text = "SELECT pg_advisory_xact_lock(1818588773, key) FROM
                (SELECT DISTINCT hashtext(value) AS key FROM json_array_elements_text($1::json) ORDER BY 1) AS keys";
    on.execute(Sql::new(text).arg(text_list(keys.iter().copied()))).await.map(drop)
}

struct Row {
    id: JobId,
    job: String,
    queue: String,
    payload: Vec<u8>,
    options: String,
    order_key: Option<String>,
    enqueued_at: u64,
}

fn row(mut entry: OutboxEntry) -> Result<Row> {
    entry.options.continue_trace();
    Ok(Row {
        id: entry.id.unwrap_or_else(JobId::mint),
        job: entry.job,
        queue: entry.queue,
        payload: entry.payload?,
        options: serde_json::to_string(&entry.options).map_err(crate::Error::Encode)?,
        order_key: entry.order_key,
        enqueued_at: entry.enqueued_at,
    })
}

impl Row {
    fn args(&self) -> [Arg; 7] {
        [
            self.id.as_str().into(),
            self.job.as_str().into(),
            self.queue.as_str().into(),
            self.payload.as_slice().into(),
            self.options.as_str().into(),
            self.order_key.as_deref().into(),
            self.enqueued_at.into(),
        ]
    }
}
