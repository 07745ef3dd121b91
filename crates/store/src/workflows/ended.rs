//! Deletes ended workflows whose retention is over, and finds those whose deadline has passed.

use leveret_sql::{
    Result,
    db::{Dialect, Sql, number_list},
};

use crate::open::Store;

/// The workflows that one transaction deletes. Each may have ten thousands of jobs.
const AT_ONCE: u64 = 20;

impl Store {
    /// Deletes workflows that ended before a time, and returns how many.
    pub(crate) async fn prune_workflows(&self, before: u64) -> Result<u64> {
        let mut all = 0;
        loop {
            let mut tx = self.writer().await?.begin().await?;
            let lock = if self.dialect() == Dialect::Postgres { "FOR UPDATE SKIP LOCKED" } else { "" };
            let text =
                format!("SELECT key FROM leveret_workflows WHERE ended_at < $1 ORDER BY ended_at LIMIT $2 {lock}");
            let rows = Sql::new(text).slow().arg(before).arg(AT_ONCE).rows(&mut tx).await?;
            let keys = rows.iter().map(|row| row.try_get("key")).collect::<sqlx::Result<Vec<i64>>>()?;
            let list = self.dialect().numbers("$1");
            for table in ["outbox", "jobs", "payloads", "steps"] {
                let text = format!("DELETE FROM leveret_workflow_{table} WHERE workflow IN {list}");
                Sql::new(text).slow().arg(number_list(&keys)).execute(&mut tx).await?;
            }
            let text = format!("DELETE FROM leveret_workflows WHERE key IN {list}");
            Sql::new(text).slow().arg(number_list(&keys)).execute(&mut tx).await?;
            tx.commit().await?;
            all += keys.len() as u64;
            if (keys.len() as u64) < AT_ONCE {
                return Ok(all);
            }
        }
    }

    /// Returns the ids of workflows that have not ended at their deadline, at most `limit`.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert!(store.overdue_workflows(1_800_000_000_000, 100).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn overdue_workflows(&self, now: u64, limit: u32) -> Result<Vec<String>> {
        let text = "SELECT id FROM leveret_workflows
                    WHERE deadline_due <= $1 AND deadline_due IS NOT NULL AND ended_at IS NULL
                    ORDER BY deadline_due LIMIT $2";
        let rows = Sql::new(text).arg(now).arg(limit).rows(&mut self.reader().await?).await?;
        Ok(rows.iter().map(|row| row.try_get("id")).collect::<sqlx::Result<_>>()?)
    }

    /// Records that the deadline of these workflows has been handled.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store) -> leveret_store::Result<()> {
    /// let overdue = store.overdue_workflows(1_800_000_000_000, 100).await?;
    /// store.workflow_deadlines_handled(&overdue).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow_deadlines_handled(&self, ids: &[String]) -> Result<()> {
        for id in ids {
            let sql = Sql::new("UPDATE leveret_workflows SET deadline_due = NULL WHERE id = $1");
            sql.arg(id.as_str()).execute(&mut self.writer().await?).await?;
        }
        Ok(())
    }
}
