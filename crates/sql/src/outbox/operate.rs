//! What an operator sees of an outbox, and does about it.

use std::time::Duration;

use super::enqueue::{MIGRATIONS, Outbox};
use crate::{
    Result,
    db::{FromRow, Row, Sql, number_list},
};

const AT_ONCE: u64 = 1000;

/// How an outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Jobs that wait for a relay, with those that relays have in hand.
    pub pending: u64,
    /// Those that relays have in hand.
    pub leased: u64,
    /// When the oldest of them was enqueued, in milliseconds since the epoch.
    pub oldest_at: Option<u64>,
    /// Jobs that could not be published.
    pub set_aside: u64,
    /// Jobs that were published and are kept.
    pub published: u64,
}

/// A job that could not be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The number of its row, which is how it is chosen.
    pub number: i64,
    /// Its id.
    pub id: String,
    /// Its name.
    pub job: String,
    /// Its queue.
    pub queue: String,
    /// Its order key: those behind it with the same one wait.
    pub order_key: Option<String>,
    /// When it was enqueued, in milliseconds since the epoch.
    pub enqueued_at: u64,
    /// When it was set aside.
    pub set_aside_at: u64,
    /// How often it was tried.
    pub tries: u32,
    /// What was said the last time.
    pub reason: String,
}

/// Which of the jobs that were set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// All of them.
    All,
    /// Those of these numbers.
    Numbers(Vec<i64>),
}

impl FromRow for OutboxStatus {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            pending: row.number("pending")?,
            leased: row.number("leased")?,
            oldest_at: row.maybe_number("oldest_at")?,
            set_aside: row.number("set_aside")?,
            published: row.number("published")?,
        })
    }
}

impl FromRow for SetAside {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            number: row.try_get("seq")?,
            id: row.try_get("id")?,
            job: row.try_get("job")?,
            queue: row.try_get("queue")?,
            order_key: row.try_get("order_key")?,
            enqueued_at: row.number("enqueued_at")?,
            set_aside_at: row.number("set_aside_at")?,
            tries: row.number("tries")?,
            reason: row.try_get("reason")?,
        })
    }
}

impl Outbox {
    /// Counts the rows, one by one: of a million it takes about a second.
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

    /// The jobs that were set aside, from the first number after `after` on, at most `limit`.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn set_aside(&self, after: i64, limit: u32) -> Result<Vec<SetAside>> {
        MIGRATIONS.check(&self.pool).await?;
        let text = "SELECT seq, id, job, queue, order_key, enqueued_at, set_aside_at, tries, reason FROM leveret_outbox
                    WHERE set_aside_at IS NOT NULL AND seq > $1 ORDER BY seq LIMIT $2";
        self.pool.all(Sql::new(text).arg(after).arg(limit)).await
    }

    /// Has jobs that were set aside tried again, as often as new ones; returns how many.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn retry(&self, chosen: &Chosen) -> Result<u64> {
        let set =
            "UPDATE leveret_outbox SET set_aside_at = NULL, tries = 0, ready_at = 0, lease = NULL, leased_until = 0";
        let retried = self.change(set, chosen).await?;
        Ok(retried)
    }

    /// Deletes jobs that were set aside, which are never published then; returns how many.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn discard(&self, chosen: &Chosen) -> Result<u64> {
        self.change("DELETE FROM leveret_outbox", chosen).await
    }

    async fn change(&self, change: &str, chosen: &Chosen) -> Result<u64> {
        MIGRATIONS.check(&self.pool).await?;
        match chosen {
            Chosen::Numbers(numbers) => {
                let list = self.pool.dialect().numbers("$1");
                let text = format!("{change} WHERE set_aside_at IS NOT NULL AND seq IN {list}");
                self.pool.execute(Sql::new(text).slow().arg(number_list(numbers))).await
            }
            Chosen::All => {
                let some = "SELECT seq FROM leveret_outbox WHERE set_aside_at IS NOT NULL ORDER BY seq LIMIT $1";
                self.portions(&format!("{change} WHERE seq IN ({some})"), None).await
            }
        }
    }

    /// Deletes jobs that were published and kept for so long; returns how many.
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

    /// Runs a change of `$1` rows until one finds fewer.
    async fn portions(&self, text: &str, kept: Option<Duration>) -> Result<u64> {
        let mut all = 0;
        loop {
            let mut change = Sql::new(text).slow().arg(AT_ONCE);
            if let Some(kept) = kept {
                change = change.arg(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX));
            }
            let changed = self.pool.execute(change).await?;
            all += changed;
            if changed < AT_ONCE {
                return Ok(all);
            }
        }
    }
}
