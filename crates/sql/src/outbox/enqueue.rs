//! Creates the outbox, and enqueues jobs in a transaction of the user's.

use std::{borrow::Cow, time::SystemTime};

use leveret::{JobId, NewJob, PublishError, StoredJob, names, time::unix_ms};
use serde::Serialize;

use crate::{
    Error, Result,
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
/// use leveret::NewJob;
/// use leveret_sql::Outbox;
///
/// let mut tx = pool.begin().await?;
/// let job = SendEmail { to: "ada@example.org".into() };
/// Outbox::enqueue(&mut tx, &job).await?;
/// Outbox::enqueue(&mut tx, NewJob::of(&job).priority(9)).await?;
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

    /// Enqueues a reference to a [`Job`](leveret::Job) or a [`NewJob`] in a transaction, and returns the id that it will
    /// be published with.
    ///
    /// Its delay and its time to live count from now, and not from its publish. A delay that has passed by then has no
    /// effect. The time for which a [unique](NewJob::unique) job takes its key counts from the publish. The relay skips a
    /// unique job whose key is taken by then, as its [`IfTaken`](leveret::IfTaken) says, and sets it aside if it has no
    /// [store of keys](crate::Relay::unique_in).
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
    /// * [`Error::InvalidJob`](crate::Error::InvalidJob): the job could never be published. Nothing was written, and the
    ///   transaction can continue.
    /// * [`Error::NoTables`](crate::Error::NoTables), [`Error::Database`](crate::Error::Database).
    /// * [`Error::Silent`](crate::Error::Silent): the database did not answer in time.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, or fails with [`Error::Silent`](crate::Error::Silent), the job may
    /// or may not be in the transaction. Roll the transaction back, which its drop does.
    pub async fn enqueue(on: &mut impl Connection, job: impl Into<NewJob>) -> Result<JobId> {
        first(enqueue_rows(on, vec![(None, job.into())]).await?)
    }

    /// Enqueues many jobs, all or none, which is faster than one by one. Returns their ids in order.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_all<N: Into<NewJob>>(
        on: &mut impl Connection,
        jobs: impl IntoIterator<Item = N>,
    ) -> Result<Vec<JobId>> {
        enqueue_rows(on, jobs.into_iter().map(|job| (None, job.into())).collect()).await
    }

    /// Like [`enqueue`](Self::enqueue), in the order of a key of 1 to 255 bytes: the job is published after all jobs
    /// that were enqueued before it with the same key.
    ///
    /// On PostgreSQL the key is locked until the transaction ends, so that the order is that of the commits. Two
    /// transactions that lock two keys in opposite order end in a deadlock, which PostgreSQL breaks with an error.
    ///
    /// A job that is set aside blocks the jobs behind it until it is retried or discarded. The order of *runs* depends
    /// on the queue: it is kept by one consumer with `concurrency(1)`, as long as no job fails.
    ///
    /// ```
    /// # async fn doc(pool: sqlx::PgPool, job: impl leveret::Job) -> Result<(), Box<dyn std::error::Error>> {
    /// use leveret_sql::Outbox;
    ///
    /// let mut tx = pool.begin().await?;
    /// Outbox::enqueue_ordered(&mut tx, "customer-7", &job).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_ordered(
        on: &mut impl Connection,
        order_key: impl Into<String>,
        job: impl Into<NewJob>,
    ) -> Result<JobId> {
        first(enqueue_rows(on, vec![(Some(order_key.into()), job.into())]).await?)
    }

    /// Enqueues many jobs in the order of their keys, all or none. See [`enqueue_ordered`](Self::enqueue_ordered). A
    /// job with `None` for a key has no order. Returns their ids in order.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_all_ordered<K: Into<Option<String>>, N: Into<NewJob>>(
        on: &mut impl Connection,
        jobs: impl IntoIterator<Item = (K, N)>,
    ) -> Result<Vec<JobId>> {
        enqueue_rows(on, jobs.into_iter().map(|(key, job)| (key.into(), job.into())).collect()).await
    }
}

pub(super) fn first(mut ids: Vec<JobId>) -> Result<JobId> {
    Ok(ids.pop().unwrap_or_else(JobId::mint))
}

async fn enqueue_rows(on: &mut impl Connection, jobs: Vec<(Option<String>, NewJob)>) -> Result<Vec<JobId>> {
    let now = SystemTime::now();
    insert(on, jobs.into_iter().map(|(order_key, job)| row(order_key, job, now)).collect::<Result<Vec<_>>>()?).await
}

/// Writes rows, and returns their ids in order.
pub(super) async fn insert(on: &mut impl Connection, rows: Vec<Row>) -> Result<Vec<JobId>> {
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

pub(super) struct Row {
    id: JobId,
    name: Cow<'static, str>,
    queue: Cow<'static, str>,
    payload: Vec<u8>,
    options: String,
    order_key: Option<String>,
    enqueued_at: u64,
}

/// Refuses here what a publish would refuse later, when the caller no longer waits.
fn row(order_key: Option<String>, job: NewJob, now: SystemTime) -> Result<Row> {
    let StoredJob { id, name, queue, payload, enqueued_at, options } =
        job.into_stored(now).map_err(Error::InvalidJob)?;
    check("job id", id.as_str(), order_key.as_deref())?;
    Row::new((id, name, queue, payload), &options, order_key, enqueued_at)
}

/// Checks the order key like an id. PostgreSQL keeps no NUL in a text.
pub(super) fn check(what: &'static str, id: &str, order_key: Option<&str>) -> Result<()> {
    let texts = [(what, Some(id)), ("order key", order_key)];
    for (what, text) in texts.into_iter().filter_map(|(what, text)| Some((what, text?))) {
        if names::id(text).is_err() || text.contains('\0') {
            let reason = "it must have 1 to 255 bytes, none of them NUL";
            return Err(Error::InvalidJob(PublishError::Invalid { what, value: text.to_owned(), reason }));
        }
    }
    Ok(())
}

impl Row {
    pub(super) fn new(
        (id, name, queue, payload): (JobId, Cow<'static, str>, Cow<'static, str>, Vec<u8>),
        options: &impl Serialize,
        order_key: Option<String>,
        enqueued_at: SystemTime,
    ) -> Result<Self> {
        let options = serde_json::to_string(options).map_err(|error| {
            Error::InvalidJob(PublishError::Encode { job: name.to_string(), reason: error.to_string() })
        })?;
        Ok(Self { id, name, queue, payload, options, order_key, enqueued_at: unix_ms(enqueued_at) })
    }

    fn args(&self) -> [Arg; 7] {
        [
            self.id.as_str().into(),
            (*self.name).into(),
            (*self.queue).into(),
            self.payload.as_slice().into(),
            self.options.as_str().into(),
            self.order_key.as_deref().into(),
            self.enqueued_at.into(),
        ]
    }
}
