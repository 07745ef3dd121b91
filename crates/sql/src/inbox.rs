//! The inbox: a job has its effect once, however often it is delivered.
//!
//! A queue delivers a job at least once, and again if a worker crashes between the effect and the ack. [`Inbox::once`]
//! writes the job's id in the transaction of the effect, so that both are committed or neither is. At the next delivery
//! the id is found, and the attempt ends as a duplicate.
//!
//! ```
//! use leveret::{Context, JobResult};
//! use leveret_sql::Inbox;
//! use sqlx::PgPool;
//! # #[derive(serde::Serialize, serde::Deserialize, leveret::Job)] #[job(name = "charge", queue = "charges")]
//! # struct Charge { account: i64, cents: i64 }
//!
//! async fn charge(job: Charge, ctx: Context<PgPool>) -> JobResult {
//!     let mut tx = ctx.state().begin().await?;
//!     Inbox::once(&mut tx, &ctx).await?;
//!     let charge = sqlx::query("UPDATE accounts SET cents = cents - $1 WHERE id = $2");
//!     charge.bind(job.cents).bind(job.account).execute(&mut *tx).await?;
//!     Ok(tx.commit().await?)
//! }
//! # fn worker(pool: PgPool) -> leveret::Worker<PgPool> { leveret::Worker::new(pool).handle(charge) }
//! ```
//!
//! The inbox covers what the transaction covers. A mail that the handler sends is not part of it. Enqueue another job
//! for the mail, in the same transaction, through an [`Outbox`](crate::Outbox).

use std::time::{Duration, SystemTime};

use leveret::{
    Context, JobError, JobResult,
    time::{at_unix_ms, millis},
};
use serde::Serialize;

use crate::{
    Result,
    db::{Arg, Connection, Dialect, FromRow, Migrations, Pool, Row, Sql, TABLES_LOCK, from_pools},
};

const MIGRATIONS: Migrations = Migrations {
    name: "inbox",
    table: "leveret_inbox_migrations",
    lock: TABLES_LOCK,
    sqlite: &[include_str!("../migrations/inbox/sqlite/1.sql"), include_str!("../migrations/inbox/sqlite/2.sql")],
    postgres: &[include_str!("../migrations/inbox/postgres/1.sql"), include_str!("../migrations/inbox/postgres/2.sql")],
};

/// The rows that one statement deletes, so that transactions stay short.
const AT_ONCE: u64 = 1000;

/// The inbox of a database: the ids of the jobs whose effects are in it.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use leveret_sql::Inbox;
/// use sqlx::sqlite::SqlitePool;
/// # let folder = tempfile::tempdir()?;
/// # let url = format!("sqlite://{}?mode=rwc", folder.path().join("shop.db").display());
///
/// let pool = SqlitePool::connect(&url).await?;          // or a PgPool
/// let inbox = Inbox::migrate(&pool).await?;
/// // Once a day, with a time longer than any job can be delivered again.
/// inbox.prune(Duration::from_secs(30 * 24 * 3600)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Inbox {
    pool: Pool,
}

from_pools!(Inbox);

/// The state of an inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxStatus {
    /// Number of recorded jobs.
    pub jobs: u64,
    /// Time of the oldest record.
    pub oldest_at: Option<SystemTime>,
}

impl Inbox {
    /// Makes a handle of an inbox whose tables exist.
    pub fn new(pool: impl Into<Self>) -> Self {
        pool.into()
    }

    /// Opens a database for the inbox alone: `sqlite:PATH` or a path, whose file is created if it is missing, or
    /// `postgres://…`.
    ///
    /// # Errors
    ///
    /// As [`Outbox::open`](crate::Outbox::open).
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self { pool: Pool::open(url).await? })
    }

    /// Creates the tables `leveret_inbox` and `leveret_inbox_migrations` in a database, or updates them. Any number of
    /// processes may do so at the same time.
    ///
    /// # Errors
    ///
    /// [`Error::Newer`](crate::Error::Newer) for tables of a newer Leveret,
    /// [`Error::Database`](crate::Error::Database), [`Error::Silent`](crate::Error::Silent).
    pub async fn migrate(pool: impl Into<Self>) -> Result<Self> {
        let inbox = pool.into();
        MIGRATIONS.migrate(&inbox.pool).await?;
        Ok(inbox)
    }

    /// Records in the handler's transaction that its job is done. Pass the error on with `?`: if the job was done
    /// before, the attempt ends as a duplicate, which is not retried.
    ///
    /// Ids are noted by queue: a job that is moved to another queue is another job there. If two copies run at the same
    /// time, the second one waits here until the first one's transaction ends. On SQLite begin the transaction with
    /// `BEGIN IMMEDIATE`, or the second one fails as busy and is retried.
    ///
    /// # Time limit
    ///
    /// The call ends within 30 s (60 s on SQLite). As with [`Outbox::enqueue`](crate::Outbox::enqueue), the rest of the
    /// transaction is yours and has no limit unless you set one.
    ///
    /// # Errors
    ///
    /// [`JobError::duplicate`], or an error that is retried: [`Error::NoTables`](crate::Error::NoTables),
    /// [`Error::Database`](crate::Error::Database), [`Error::Silent`](crate::Error::Silent).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, or fails with [`Error::Silent`](crate::Error::Silent), the id may
    /// or may not be noted in the transaction. Roll the transaction back, which its drop does.
    pub async fn once<S>(on: &mut impl Connection, ctx: &Context<S>) -> JobResult {
        let dialect = on.connection().dialect();
        let text = format!(
            "INSERT INTO leveret_inbox (queue, job_id, done_at) VALUES ($1, $2, {}) ON CONFLICT DO NOTHING",
            dialect.now()
        );
        let sql = Sql::new(text).arg(ctx.queue()).arg(ctx.job_id().as_bytes());
        if on.connection().execute(sql).await.map_err(|error| MIGRATIONS.explain(error))? > 0 {
            return Ok(());
        }
        if ctx.__is_awaited() {
            let sql = Sql::new("SELECT success FROM leveret_inbox WHERE queue = $1 AND job_id = $2");
            let sql = sql.arg(ctx.queue()).arg(ctx.job_id().as_bytes());
            let rows = on.connection().rows(sql).await.map_err(|error| MIGRATIONS.explain(error))?;
            let success: Option<String> = rows.first().map(|row| row.try_get("success")).transpose()?.flatten();
            if let Some(success) = success {
                ctx.__restore_success(&success);
            }
        }
        Err(JobError::duplicate())
    }

    /// Keeps the job's result beside its record, and the [steps that it added](Context::add_steps) to its workflow: the last
    /// call before the commit, after [`once`](Self::once). If the worker is killed before it has reported them, the next
    /// delivery of the job ends as a duplicate and reports what is kept. Without this call it reports no result.
    ///
    /// For steps of workflows and for requests. For other jobs nothing is kept.
    ///
    /// ```
    /// use leveret::{Context, JobResult};
    /// use leveret_sql::Inbox;
    /// use sqlx::PgPool;
    ///
    /// async fn charge(cents: i64, ctx: Context<PgPool>) -> JobResult<i64> {
    ///     let mut tx = ctx.state().begin().await?;
    ///     Inbox::once(&mut tx, &ctx).await?;
    ///     let charge = sqlx::query_scalar("INSERT INTO charges (cents) VALUES ($1) RETURNING number").bind(cents);
    ///     let number: i64 = charge.fetch_one(&mut *tx).await?;
    ///     Inbox::finish(&mut tx, &ctx, &number).await?;      // the next step reads it, whatever happens to this worker
    ///     tx.commit().await?;
    ///     Ok(number)
    /// }
    /// # let _ = charge;
    /// ```
    ///
    /// # Errors
    ///
    /// An error that is retried, as of [`once`](Self::once), or because the result does not serialise or has more than
    /// 64 KiB.
    ///
    /// # Cancel safety
    ///
    /// As for [`once`](Self::once).
    pub async fn finish<S>(on: &mut impl Connection, ctx: &Context<S>, result: &impl Serialize) -> JobResult {
        let Some(success) = ctx.__success(result)? else { return Ok(()) };
        let sql = Sql::new("UPDATE leveret_inbox SET success = $1 WHERE queue = $2 AND job_id = $3");
        let sql = sql.arg(success.as_str()).arg(ctx.queue()).arg(ctx.job_id().as_bytes());
        if on.connection().execute(sql).await.map_err(|error| MIGRATIONS.explain(error))? == 0 {
            return Err("Inbox::finish needs the record of Inbox::once in the same transaction".into());
        }
        Ok(())
    }

    /// Counts the recorded jobs.
    ///
    /// # Errors
    ///
    /// [`Error::NoTables`](crate::Error::NoTables), [`Error::Newer`](crate::Error::Newer),
    /// [`Error::Database`](crate::Error::Database), [`Error::Silent`](crate::Error::Silent).
    pub async fn status(&self) -> Result<InboxStatus> {
        MIGRATIONS.check(&self.pool).await?;
        let sql = Sql::new("SELECT count(*) AS jobs, min(done_at) AS oldest FROM leveret_inbox").slow();
        Ok(self.pool.all(sql).await?.first().copied().unwrap_or_default())
    }

    /// Deletes the records of jobs that were done longer ago than `kept`, in small portions. Returns their number.
    ///
    /// A job whose record is deleted has its effect again when it is delivered again. Keep records for longer than a
    /// job can wait, be retried, and be a dead letter.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status). Some records may be deleted then.
    pub async fn prune(&self, kept: Duration) -> Result<u64> {
        MIGRATIONS.check(&self.pool).await?;
        let dialect = self.pool.dialect();
        let found = match dialect {
            Dialect::Postgres => "ctid IN (SELECT ctid FROM leveret_inbox",
            Dialect::Sqlite => "(queue, job_id) IN (SELECT queue, job_id FROM leveret_inbox",
        };
        let text = format!("DELETE FROM leveret_inbox WHERE {found} WHERE done_at < {} - $1 LIMIT $2)", dialect.now());
        let kept = Arg::from(millis(kept));
        let mut all = 0;
        loop {
            let pruned = self.pool.execute(Sql::new(&text).slow().arg(kept.clone()).arg(AT_ONCE)).await?;
            all += pruned;
            if pruned < AT_ONCE {
                return Ok(all);
            }
        }
    }
}

impl FromRow for InboxStatus {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let oldest_at = row.maybe_number("oldest")?.map(at_unix_ms);
        Ok(Self { jobs: row.number("jobs")?, oldest_at })
    }
}
