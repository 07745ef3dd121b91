//! Enqueues jobs in a transaction of the user's.

use leveret::JobId;

use super::entry::Entry;
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

/// The outbox of a database; see the crate's [`Relay`] for its other end.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize)] struct SendEmail { to: String }
/// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
/// # async fn doc(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use leveret_sql::{Entry, Outbox};
///
/// let mut tx = pool.begin().await?;
/// let job = SendEmail { to: "ada@example.org".into() };
/// Outbox::enqueue(&mut tx, &job).await?;
/// Outbox::enqueue(&mut tx, Entry::new(&job).priority(9)).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Outbox {
    pub(super) pool: Pool,
}

from_pools!(Outbox);

impl Outbox {
    /// The outbox of a database whose tables are there.
    pub fn new(pool: impl Into<Self>) -> Self {
        pool.into()
    }

    /// Opens a database for the outbox alone: `sqlite:PATH`, a path of a file that is there, or `postgres://…`.
    ///
    /// # Errors
    ///
    /// As [`Store::open`](crate::Store::open), but for [`Error::Newer`](crate::Error::Newer).
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self { pool: Pool::open(url).await? })
    }

    /// Makes the outbox's tables in a database, or brings them up to date. Any number of processes may do so at once.
    ///
    /// The tables are `leveret_outbox` and `leveret_outbox_migrations`; on PostgreSQL there are the functions
    /// `leveret_enqueue` and `leveret_outbox_wake` besides.
    ///
    /// # Errors
    ///
    /// [`Error::Newer`](crate::Error::Newer) for tables of a newer Leveret, [`Error::Database`](crate::Error::Database).
    pub async fn migrate(pool: impl Into<Self>) -> Result<Self> {
        let outbox = pool.into();
        MIGRATIONS.migrate(&outbox.pool).await?;
        Ok(outbox)
    }

    /// Enqueues a job in a transaction, and returns the id that it will be published with. On a connection without a
    /// transaction it is committed at once, which does not work behind a pooler in transaction mode.
    ///
    /// # Errors
    ///
    /// [`Error::Entry`](crate::Error::Entry) and [`Error::Encode`](crate::Error::Encode) for what could never be published:
    /// nothing was written, and the transaction can go on. [`Error::NoTables`](crate::Error::NoTables),
    /// [`Error::Database`](crate::Error::Database); [`Error::Silent`](crate::Error::Silent) after 30 s (60 s on SQLite): wrap
    /// the call into `tokio::time::timeout` to wait for less.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, or failed with [`Error::Silent`](crate::Error::Silent), the job may or may not be in the
    /// transaction: roll it back, which dropping it does.
    pub async fn enqueue(on: &mut impl Connection, job: impl Into<Entry>) -> Result<JobId> {
        let mut ids = enqueue_rows(on, vec![job.into()]).await?;
        Ok(ids.pop().unwrap_or_else(JobId::mint))
    }

    /// As [`enqueue`](Self::enqueue) for many, which is faster: all or none. Returns their ids in order.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_all<E: Into<Entry>>(
        on: &mut impl Connection,
        jobs: impl IntoIterator<Item = E>,
    ) -> Result<Vec<JobId>> {
        enqueue_rows(on, jobs.into_iter().map(Into::into).collect()).await
    }
}

async fn enqueue_rows(on: &mut impl Connection, entries: Vec<Entry>) -> Result<Vec<JobId>> {
    entries.iter().try_for_each(Entry::check)?;
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

/// Until the commit: so the numbers of one key are in the order in which they can be seen. In one order for all, so that
/// two calls like this cannot lock each other out.
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

fn row(mut entry: Entry) -> Result<Row> {
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
