//! Shows an outbox to an operator, and changes jobs that were set aside.

use std::time::{Duration, SystemTime};

use leveret::{JobId, time::at_unix_ms};

use leveret::time::millis;

use super::enqueue::{MIGRATIONS, Outbox};
use crate::{
    Result,
    db::{FromRow, Row, Sql, number_list},
};

/// The rows that one statement changes, so that transactions stay short.
const AT_ONCE: u64 = 1000;

/// The state of an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxStatus {
    /// Jobs that are not published yet.
    pub pending: u64,
    /// Pending jobs that relays have claimed.
    pub leased: u64,
    /// The time at which the oldest pending job was enqueued.
    pub oldest_at: Option<SystemTime>,
    /// Jobs that could not be published.
    pub set_aside: u64,
    /// Published jobs that are kept ([`Relay::keep`](crate::Relay::keep)).
    pub published: u64,
}

/// A job that could not be published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAsideJob {
    /// The number of its row, by which it is selected.
    pub number: i64,
    /// Its id.
    pub id: JobId,
    /// Its name.
    pub job: String,
    /// Its queue.
    pub queue: String,
    /// Its order key. Jobs behind it with the same key wait.
    pub order_key: Option<String>,
    /// The time at which it was enqueued.
    pub enqueued_at: SystemTime,
    /// The time at which it was set aside.
    pub set_aside_at: SystemTime,
    /// Number of publish attempts.
    pub tries: u32,
    /// The error of the last attempt.
    pub reason: String,
}

/// A selection of jobs that were set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetAsideSelection {
    /// All of them.
    All,
    /// The jobs with these [numbers](SetAsideJob::number).
    Numbers(Vec<i64>),
}

impl FromRow for OutboxStatus {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            pending: row.number("pending")?,
            leased: row.number("leased")?,
            oldest_at: row.maybe_number("oldest_at")?.map(at_unix_ms),
            set_aside: row.number("set_aside")?,
            published: row.number("published")?,
        })
    }
}

impl FromRow for SetAsideJob {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            number: row.try_get("seq")?,
            id: JobId::from(row.try_get::<String>("id")?),
            job: row.try_get("job")?,
            queue: row.try_get("queue")?,
            order_key: row.try_get("order_key")?,
            enqueued_at: at_unix_ms(row.number("enqueued_at")?),
            set_aside_at: at_unix_ms(row.number("set_aside_at")?),
            tries: row.number("tries")?,
            reason: row.try_get("reason")?,
        })
    }
}

impl Outbox {
    /// Counts the jobs by state. It reads every row: a million take about a second.
    ///
    /// # Errors
    ///
    /// [`Error::NoTables`](crate::Error::NoTables), [`Error::Newer`](crate::Error::Newer),
    /// [`Error::Database`](crate::Error::Database), [`Error::Silent`](crate::Error::Silent).
    pub async fn status(&self) -> Result<OutboxStatus> {
        MIGRATIONS.check(&self.pool).await?;
        let now = self.pool.dialect().now();
        let text = format!(
            "SELECT count(*) AS pending, count(CASE WHEN leased_until > {now} THEN 1 END) AS leased,
                    min(enqueued_at) AS oldest_at,
                    (SELECT count(*) FROM leveret_outbox WHERE set_aside_at IS NOT NULL) AS set_aside,
                    (SELECT count(*) FROM leveret_outbox WHERE published_at IS NOT NULL) AS published
             FROM leveret_outbox WHERE published_at IS NULL AND set_aside_at IS NULL"
        );
        Ok(self.pool.all(Sql::new(text).slow()).await?.pop().unwrap_or_default())
    }

    /// Lists jobs that were set aside, with numbers above `after`, at most `limit`.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn set_aside(&self, after: i64, limit: u32) -> Result<Vec<SetAsideJob>> {
        MIGRATIONS.check(&self.pool).await?;
        let text = "SELECT seq, id, job, queue, order_key, enqueued_at, set_aside_at, tries, reason FROM leveret_outbox
                    WHERE set_aside_at IS NOT NULL AND seq > $1 ORDER BY seq LIMIT $2";
        self.pool.all(Sql::new(text).arg(after).arg(limit)).await
    }

    /// Makes jobs that were set aside pending again, with as many tries as new ones. Returns how many.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn retry(&self, chosen: &SetAsideSelection) -> Result<u64> {
        let set =
            "UPDATE leveret_outbox SET set_aside_at = NULL, tries = 0, ready_at = 0, lease = NULL, leased_until = 0";
        self.change(set, chosen).await
    }

    /// Deletes jobs that were set aside, without publishing them. Returns how many.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn discard(&self, chosen: &SetAsideSelection) -> Result<u64> {
        self.change("DELETE FROM leveret_outbox", chosen).await
    }

    async fn change(&self, change: &str, chosen: &SetAsideSelection) -> Result<u64> {
        MIGRATIONS.check(&self.pool).await?;
        match chosen {
            SetAsideSelection::Numbers(numbers) => {
                let list = self.pool.dialect().numbers("$1");
                let text = format!("{change} WHERE set_aside_at IS NOT NULL AND seq IN {list}");
                self.pool.execute(Sql::new(text).slow().arg(number_list(numbers))).await
            }
            SetAsideSelection::All => {
                let some = "SELECT seq FROM leveret_outbox WHERE set_aside_at IS NOT NULL ORDER BY seq LIMIT $1";
                self.portions(&format!("{change} WHERE seq IN ({some})"), None).await
            }
        }
    }

    /// Deletes published jobs that were kept for at least this time. Returns how many.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn prune(&self, kept: Duration) -> Result<u64> {
        MIGRATIONS.check(&self.pool).await?;
        let text = format!(
            "DELETE FROM leveret_outbox WHERE seq IN (SELECT seq FROM leveret_outbox
             WHERE published_at IS NOT NULL AND published_at <= {} - $2 ORDER BY published_at LIMIT $1)",
            self.pool.dialect().now()
        );
        self.portions(&text, Some(kept)).await
    }

    /// Repeats a change of `$1` rows until it finds fewer.
    async fn portions(&self, text: &str, kept: Option<Duration>) -> Result<u64> {
        let mut all = 0;
        loop {
            let mut change = Sql::new(text).slow().arg(AT_ONCE);
            if let Some(kept) = kept {
                change = change.arg(millis(kept));
            }
            let changed = self.pool.execute(change).await?;
            all += changed;
            if changed < AT_ONCE {
                return Ok(all);
            }
        }
    }
}
