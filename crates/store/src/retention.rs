//! Deletes rows whose retention has ended, in small portions, so that writers can work in between.

use std::time::Duration;

use leveret::time::millis;
use leveret_sql::{Result, db::Sql};

use crate::{
    open::{Store, WriteLock},
    status::UNFINISHED,
};

/// The rows that one statement deletes.
const AT_ONCE: u64 = 1000;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The retention of rows. Dead letters in the state [`Dead`](crate::DeadState::Dead) and the audit log are kept
/// indefinitely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Succeeded jobs, from their end: 24 h by default.
    pub succeeded: Duration,
    /// Dead jobs, from their end: 7 days by default.
    pub dead: Duration,
    /// Cancelled jobs, from their end: 24 h by default.
    pub cancelled: Duration,
    /// Jobs without an end, from their last status update or due time: 90 days by default.
    pub unfinished: Duration,
    /// Replayed and purged dead letters, from that change: 7 days by default.
    pub letters: Duration,
    /// Idempotency keys, from the first claim: 24 h by default.
    pub claims: Duration,
    /// Workflows with the results of their steps, from their end: 7 days by default.
    pub workflows: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            succeeded: 24 * HOUR,
            dead: 7 * DAY,
            cancelled: 24 * HOUR,
            unfinished: 90 * DAY,
            letters: 7 * DAY,
            claims: 24 * HOUR,
            workflows: 7 * DAY,
        }
    }
}

/// Numbers of deleted rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Tracked jobs.
    pub jobs: u64,
    /// Dead letters.
    pub letters: u64,
    /// Idempotency keys.
    pub claims: u64,
    /// Workflows.
    pub workflows: u64,
}

impl Store {
    /// Deletes rows whose retention has ended at the time `now`, in milliseconds since the epoch.
    ///
    /// ```
    /// use leveret_store::{Pruned, Retention};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert_eq!(store.prune(1_800_000_000_000, &Retention::default()).await?, Pruned::default());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database). Some rows may be deleted then.
    pub async fn prune(&self, now: u64, retention: &Retention) -> Result<Pruned> {
        let before = |kept: Duration| now.saturating_sub(millis(kept));
        let mut pruned = Pruned::default();
        for (state, kept) in
            [("succeeded", retention.succeeded), ("dead", retention.dead), ("cancelled", retention.cancelled)]
        {
            // By creation too, which the index has: no job ends before it is created.
            let old = format!("state = '{state}' AND created_at < $1 AND finished_at < $1");
            pruned.jobs += self.prune_jobs(&old, before(kept)).await?;
        }
        let old = format!("{UNFINISHED} AND created_at < $1 AND updated_at < $1 AND coalesce(due_at, 0) < $1");
        pruned.jobs += self.prune_jobs(&old, before(retention.unfinished)).await?;
        pruned.letters = self.prune_letters(before(retention.letters)).await?;
        let old = "DELETE FROM leveret_unique WHERE key IN (SELECT key FROM leveret_unique WHERE until < $1 LIMIT $2)";
        self.portions(WriteLock::Idempotency, &[old], now).await?;
        let old = "DELETE FROM leveret_idempotency WHERE key IN
                   (SELECT key FROM leveret_idempotency WHERE created_at < $1 LIMIT $2)";
        pruned.claims = self.portions(WriteLock::Idempotency, &[old], before(retention.claims)).await?;
        pruned.workflows = self.prune_workflows(before(retention.workflows)).await?;
        Ok(pruned)
    }

    async fn prune_jobs(&self, old: &str, before: u64) -> Result<u64> {
        let found = format!("(SELECT id FROM leveret_jobs WHERE {old} ORDER BY created_at, id LIMIT $2)");
        let steps = format!("DELETE FROM leveret_job_steps WHERE id IN {found}");
        let jobs = format!("DELETE FROM leveret_jobs WHERE id IN {found}");
        self.portions(WriteLock::Status, &[&steps, &jobs], before).await
    }

    async fn prune_letters(&self, before: u64) -> Result<u64> {
        let found = "(SELECT id FROM leveret_dead WHERE state IN ('replayed', 'purged') AND state_at < $1
                      ORDER BY id LIMIT $2)";
        let history = format!("DELETE FROM leveret_dead_history WHERE dead_id IN {found}");
        let letters = format!("DELETE FROM leveret_dead WHERE id IN {found}");
        let pruned = self.portions(WriteLock::Dead, &[&history, &letters], before).await?;
        if pruned > 0 {
            let mut tx = self.write(WriteLock::Dead).await?;
            let text = "DELETE FROM leveret_fingerprints WHERE NOT EXISTS
                        (SELECT 1 FROM leveret_dead WHERE leveret_dead.fingerprint = leveret_fingerprints.fingerprint)";
            Sql::new(text).slow().execute(&mut tx).await?;
            tx.commit().await?;
        }
        Ok(pruned)
    }

    /// Repeats deletions of `$2` rows older than `$1`, together in one transaction, until the last one finds fewer.
    async fn portions(&self, lock: WriteLock, deletions: &[&str], before: u64) -> Result<u64> {
        let mut all = 0;
        loop {
            let (mut tx, mut deleted) = (self.write(lock).await?, 0);
            for deletion in deletions {
                deleted = Sql::new(*deletion).slow().arg(before).arg(AT_ONCE).execute(&mut tx).await?;
            }
            tx.commit().await?;
            all += deleted;
            if deleted < AT_ONCE {
                return Ok(all);
            }
        }
    }
}
