//! Shows projections to an operator, resets them and skips events.

use std::time::SystemTime;

use leveret::{Broker, event_log, time::at_unix_ms};

use super::table::MIGRATIONS;
use crate::{
    Error, Result,
    db::{FromRow, Pool, Row, Sql, from_pools},
};

/// The projections of a database.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use leveret_sql::Projections;
/// # let folder = tempfile::tempdir()?;
/// # let url = format!("sqlite://{}?mode=rwc", folder.path().join("shop.db").display());
///
/// let pool = sqlx::SqlitePool::connect(&url).await?;          // or a PgPool
/// let projections = Projections::migrate(&pool).await?;
/// for projection in projections.list().await? {
///     println!("{} at {:?}", projection.name, projection.position);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Projections {
    pool: Pool,
}

from_pools!(Projections);

/// A projection, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectionStatus {
    /// Its name.
    pub name: String,
    /// The offset of the last event that it read; `None` before the first one.
    pub position: Option<u64>,
    /// Number of events that it applied since it started with the first event.
    pub applied: u64,
    /// The process that has the lease, as `host:pid`; `None` if the lease has expired.
    pub holder: Option<String>,
    /// The last failure; `None` once the position has moved on.
    pub failure: Option<ProjectionFailure>,
}

/// The failure at which a projection stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectionFailure {
    /// The offset of the event that failed, if the failure concerns one.
    pub offset: Option<u64>,
    /// The error.
    pub error: String,
    /// The time of the last attempt.
    pub at: SystemTime,
    /// Number of attempts.
    pub tries: u64,
}

impl FromRow for ProjectionStatus {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let position: Option<i64> = row.try_get("position")?;
        let error: Option<String> = row.try_get("error")?;
        let (offset, at, tries) =
            (row.maybe_number("failed_offset")?, row.maybe_number("failed_at")?, row.number("tries")?);
        let at = at_unix_ms(at.unwrap_or_default());
        Ok(Self {
            name: row.try_get("name")?,
            position: position.and_then(|position| u64::try_from(position).ok()),
            applied: row.number("applied")?,
            holder: row.try_get("holder")?,
            failure: error.map(|error| ProjectionFailure { offset, error, at, tries }),
        })
    }
}

impl Projections {
    /// Makes a handle of the projections of a database whose tables exist.
    pub fn new(pool: impl Into<Self>) -> Self {
        pool.into()
    }

    /// Opens a database for its projections alone: `sqlite:PATH` or a path, whose file is created if it is missing, or
    /// `postgres://…`.
    ///
    /// # Errors
    ///
    /// As [`Outbox::open`](crate::Outbox::open).
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self { pool: Pool::open(url).await? })
    }

    /// Creates the tables `leveret_projections`, `leveret_projection_ids` and `leveret_projections_migrations` in a
    /// database, or updates them. Any number of processes may do so at the same time.
    ///
    /// # Errors
    ///
    /// [`Error::Newer`] for tables of a newer Leveret, [`Error::Database`], [`Error::Silent`].
    pub async fn migrate(pool: impl Into<Self>) -> Result<Self> {
        let projections = pool.into();
        MIGRATIONS.migrate(&projections.pool).await?;
        Ok(projections)
    }

    /// Lists the projections that have run, by name.
    ///
    /// # Errors
    ///
    /// [`Error::NoTables`], [`Error::Newer`], [`Error::Database`], [`Error::Silent`].
    pub async fn list(&self) -> Result<Vec<ProjectionStatus>> {
        MIGRATIONS.check(&self.pool).await?;
        let text = format!(
            "SELECT name, position, applied, failed_offset, error, failed_at, tries,
                    CASE WHEN leased_until > {} THEN holder END AS holder
             FROM leveret_projections ORDER BY name",
            self.pool.dialect().now()
        );
        self.pool.all(Sql::new(text)).await
    }

    /// Lets a projection start again with the first event of the log. The process that has the lease, or gets it next,
    /// empties the view before that.
    ///
    /// The view is then computed for the topics of the process that gets the lease.
    ///
    /// A process that runs the projection notices within a third of its lease. One that has stopped with an error must be
    /// started again.
    ///
    /// # Errors
    ///
    /// * [`Error::LogTruncated`]: the first events of the log are gone, so that the view would lack them. `allow_truncated`
    ///   accepts that.
    /// * [`Error::NoProjection`]: no such projection has run.
    /// * [`Error::Log`]: the log cannot be read, and `allow_truncated` is not set.
    /// * As [`list`](Self::list).
    pub async fn reset(&self, name: &str, broker: &Broker, allow_truncated: bool) -> Result<()> {
        self.find(name).await?;
        if !allow_truncated {
            let oldest = event_log::oldest(broker).await.map_err(Error::Log)?;
            if let Some(first) = oldest.filter(|first| *first > 0) {
                return Err(Error::LogTruncated { projection: name.to_owned(), first });
            }
        }
        let text =
            "UPDATE leveret_projections SET position = NULL, event_id = NULL, applied = 0, allows_truncated = $2,
                           epoch = epoch + 1, holder = NULL, leased_until = 0, skips = NULL,
                           failed_offset = NULL, error = NULL, failed_at = NULL, tries = 0, topics = NULL
                    WHERE name = $1";
        // It may wait for a transaction of the holder.
        self.change(Sql::new(text).slow().arg(name).arg(i64::from(allow_truncated)), name).await
    }

    /// Skips the event at which a projection stands still. Its handler does not get it.
    ///
    /// A process that retries the event skips it at its next attempt. One that has stopped with an error must be started
    /// again.
    ///
    /// # Errors
    ///
    /// * [`Error::NotFailing`]: the projection does not stand still at this event.
    /// * [`Error::NoProjection`]: no such projection has run.
    /// * As [`list`](Self::list).
    pub async fn skip(&self, name: &str, offset: u64) -> Result<()> {
        let at = self.find(name).await?.failure.and_then(|failure| failure.offset);
        if at != Some(offset) {
            return Err(Error::NotFailing { projection: name.to_owned(), offset, at });
        }
        let text = "UPDATE leveret_projections SET skips = $2 WHERE name = $1 AND failed_offset = $2";
        self.change(Sql::new(text).slow().arg(name).arg(offset), name).await
    }

    async fn find(&self, name: &str) -> Result<ProjectionStatus> {
        let found = self.list().await?.into_iter().find(|projection| projection.name == name);
        found.ok_or_else(|| Error::NoProjection { projection: name.to_owned() })
    }

    async fn change(&self, sql: Sql, name: &str) -> Result<()> {
        if self.pool.execute(sql).await? > 0 {
            Ok(())
        } else {
            Err(Error::NoProjection { projection: name.to_owned() })
        }
    }
}
