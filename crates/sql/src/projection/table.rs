//! The tables of projections, and the lease on one.

use std::time::Duration;

use leveret::time::millis;

use crate::{
    Result,
    db::{FromRow, Migrations, Pool, Row, Sql, TABLES_LOCK, TimedConnection},
};

pub(super) const MIGRATIONS: Migrations = Migrations {
    name: "projections",
    table: "leveret_projections_migrations",
    lock: TABLES_LOCK,
    sqlite: &[
        include_str!("../../migrations/projections/sqlite/1.sql"),
        include_str!("../../migrations/projections/sqlite/2.sql"),
    ],
    postgres: &[
        include_str!("../../migrations/projections/postgres/1.sql"),
        include_str!("../../migrations/projections/postgres/2.sql"),
    ],
};

/// Longest stored error, in bytes.
const LONGEST_ERROR: usize = 2048;
/// The stored position before the first event.
const BEFORE_FIRST: i64 = -1;

/// An event in the log, as it is recognised later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    /// The id of the event, or a digest of an event without one.
    pub(super) id: Vec<u8>,
}

/// The row of a projection, as a process reads it before it may take the lease.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The topics of the process that had the lease last, as [`text`](super::topics::text) writes them.
    pub(super) topics: Option<String>,
    /// The process that has the lease.
    pub(super) holder: Option<String>,
}

impl FromRow for Seen {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self { topics: row.try_get("topics")?, holder: row.try_get("holder")? })
    }
}

/// The row of a projection, as the holder of its lease has read it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) epoch: i64,
    /// False until the view was emptied.
    pub(super) is_emptied: bool,
    /// The last event that was read; `None` before the first one.
    pub(super) place: Option<Place>,
    pub(super) applied: u64,
    pub(super) allows_truncated: bool,
    pub(super) skips: Option<u64>,
}

impl FromRow for Held {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let position: Option<i64> = row.try_get("position")?;
        let id: Option<Vec<u8>> = row.try_get("event_id")?;
        let offset = position.and_then(|position| u64::try_from(position).ok());
        Ok(Self {
            epoch: row.try_get("epoch")?,
            is_emptied: position.is_some(),
            place: offset.map(|offset| Place { offset, id: id.unwrap_or_default() }),
            applied: row.number("applied")?,
            allows_truncated: row.flag("allows_truncated")?,
            skips: row.maybe_number("skips")?,
        })
    }
}

struct Skips(Option<u64>);

impl FromRow for Skips {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self(row.maybe_number("skips")?))
    }
}

/// The rows of one projection.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) pool: Pool,
    pub(super) name: String,
    /// The topics of this process, as [`text`](super::topics::text) writes them.
    pub(super) topics: String,
    pub(super) lease: Duration,
}

impl Table {
    /// Reads the row before an [`acquire`](Self::acquire), and makes it if it is missing.
    pub(super) async fn look(&self) -> Result<Seen> {
        let row = Sql::new("INSERT INTO leveret_projections (name) VALUES ($1) ON CONFLICT DO NOTHING");
        self.pool.execute(row.arg(self.name.as_str())).await?;
        let text = format!(
            "SELECT topics, CASE WHEN leased_until > {} THEN holder END AS holder
             FROM leveret_projections WHERE name = $1",
            self.pool.dialect().now()
        );
        Ok(self.pool.all(Sql::new(text).arg(self.name.as_str())).await?.pop().unwrap_or_default())
    }

    /// Takes the lease if it has expired, or belongs to epoch `own`, and the row still has the topics that were `seen`.
    /// Each lease is a new epoch, so a transaction of an earlier epoch changes nothing, not even one of this process
    /// whose outcome is unknown.
    pub(super) async fn acquire(&self, holder: &str, own: i64, seen: &Seen) -> Result<Option<Held>> {
        let dialect = self.pool.dialect();
        // A running transaction of the holder has the row locked. The lease then counts as taken.
        let text = format!(
            "UPDATE leveret_projections SET epoch = epoch + 1, holder = $2, leased_until = {now} + $3, topics = $5
             WHERE name = (SELECT name FROM leveret_projections
                           WHERE name = $1 AND (leased_until <= {now} OR epoch = $4) AND coalesce(topics, '') = $6
                           {locked})
             RETURNING epoch, position, event_id, applied, allows_truncated, skips",
            now = dialect.now(),
            locked = dialect.locked(),
        );
        let sql = Sql::new(text).arg(self.name.as_str()).arg(holder).arg(millis(self.lease)).arg(own);
        let sql = sql.arg(self.topics.as_str()).arg(seen.topics.as_deref().unwrap_or_default());
        Ok(self.pool.all(sql).await?.pop())
    }

    /// Extends the lease. Returns whether this epoch still has it.
    pub(super) async fn renew(&self, epoch: i64) -> Result<bool> {
        let now = self.pool.dialect().now();
        let text = format!("UPDATE leveret_projections SET leased_until = {now} + $3 WHERE name = $1 AND epoch = $2");
        let sql = Sql::new(text).arg(self.name.as_str()).arg(epoch).arg(millis(self.lease));
        Ok(self.pool.execute(sql).await? > 0)
    }

    /// Ends the lease, so that other processes need not wait for its end.
    pub(super) async fn release(&self, epoch: i64) -> Result<()> {
        let text = "UPDATE leveret_projections SET leased_until = 0, holder = NULL WHERE name = $1 AND epoch = $2";
        self.pool.execute(Sql::new(text).arg(self.name.as_str()).arg(epoch)).await.map(drop)
    }

    /// Records a failure.
    pub(super) async fn failed(&self, epoch: i64, offset: Option<u64>, error: &str) -> Result<()> {
        let text = format!(
            "UPDATE leveret_projections SET failed_offset = $3, error = $4, failed_at = {}, tries = tries + 1
             WHERE name = $1 AND epoch = $2",
            self.pool.dialect().now()
        );
        let error = &error[..error.floor_char_boundary(LONGEST_ERROR)];
        let sql = Sql::new(text).arg(self.name.as_str()).arg(epoch).arg(offset).arg(error);
        self.pool.execute(sql).await.map(drop)
    }

    /// Returns the event that an operator has chosen to skip.
    pub(super) async fn skips(&self) -> Result<Option<u64>> {
        let sql = Sql::new("SELECT skips FROM leveret_projections WHERE name = $1").arg(self.name.as_str());
        Ok(self.pool.all::<Skips>(sql).await?.pop().and_then(|Skips(skips)| skips))
    }

    /// The ids of the last applied events: rows with the number of their last event.
    pub(super) async fn ids(&self) -> Result<Vec<(i64, Vec<u8>)>> {
        let text = "SELECT last_applied, ids FROM leveret_projection_ids WHERE projection = $1 ORDER BY last_applied";
        self.pool.all(Sql::new(text).slow().arg(self.name.as_str())).await
    }

    pub(super) async fn begin(&self) -> Result<TimedConnection> {
        self.pool.acquire().await?.begin().await
    }

    /// Notes in a transaction that the view is emptied. Returns whether this epoch has the lease and may do so.
    pub(super) async fn emptied(&self, on: &mut TimedConnection, epoch: i64) -> Result<bool> {
        let text = "UPDATE leveret_projections SET position = $3, event_id = NULL, applied = 0
                    WHERE name = $1 AND epoch = $2 AND position IS NULL";
        let sql = Sql::new(text).arg(self.name.as_str()).arg(epoch).arg(BEFORE_FIRST);
        let is_held = sql.execute(on).await? > 0;
        Sql::new("DELETE FROM leveret_projection_ids WHERE projection = $1")
            .slow()
            .arg(self.name.as_str())
            .execute(on)
            .await?;
        Ok(is_held)
    }

    /// Moves the position in a transaction. Returns false if this epoch has lost the lease, or the position is another
    /// one than `from`, so that the transaction must not commit.
    pub(super) async fn advance(
        &self,
        on: &mut TimedConnection,
        epoch: i64,
        (from, to): (Option<&Place>, &Place),
        applied: u64,
    ) -> Result<bool> {
        let text = format!(
            "UPDATE leveret_projections SET position = $4, event_id = $5, applied = applied + $6, leased_until = {} + $7,
                    skips = CASE WHEN skips <= $4 THEN NULL ELSE skips END,
                    failed_offset = NULL, error = NULL, failed_at = NULL, tries = 0
             WHERE name = $1 AND epoch = $2 AND position = $3",
            self.pool.dialect().now()
        );
        let sql = Sql::new(text).arg(self.name.as_str()).arg(epoch).arg(stored(from)).arg(stored(Some(to)));
        Ok(sql.arg(to.id.as_slice()).arg(applied).arg(millis(self.lease)).execute(on).await? > 0)
    }

    /// Ends a transaction's work with the ids that it applied. Returns false if the transaction is no longer the one that
    /// moved the position: the database, or a handler, has ended it.
    pub(super) async fn remember(
        &self,
        on: &mut TimedConnection,
        epoch: i64,
        to: &Place,
        (last, ids): (u64, &[u8]),
    ) -> Result<bool> {
        let text = "INSERT INTO leveret_projection_ids (projection, last_applied, ids)
                    SELECT name, $4, $5 FROM leveret_projections WHERE name = $1 AND epoch = $2 AND position = $3";
        let sql = Sql::new(text).arg(self.name.as_str()).arg(epoch).arg(stored(Some(to))).arg(last).arg(ids);
        Ok(sql.execute(on).await? > 0)
    }

    /// Forgets the ids of events that were applied long ago.
    pub(super) async fn forget(&self, on: &mut TimedConnection, until: u64) -> Result<()> {
        let text = "DELETE FROM leveret_projection_ids WHERE projection = $1 AND last_applied <= $2";
        Sql::new(text).arg(self.name.as_str()).arg(until).execute(on).await.map(drop)
    }
}

fn stored(place: Option<&Place>) -> i64 {
    place.map_or(BEFORE_FIRST, |place| i64::try_from(place.offset).unwrap_or(i64::MAX))
}
