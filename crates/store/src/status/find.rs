//! Reads tracked jobs, and records when the server last received updates.

use std::collections::BTreeMap;

use leveret_sql::{
    Result,
    db::{Arg, Row, Sql, number, text_list},
};

use super::{
    job::{JobFilter, JobState, TimelineEntry, TrackedJob, UNFINISHED},
    record::COLUMNS,
};
use crate::{
    open::{Store, WriteLock},
    page::{Cursor, Page},
};

/// Bounds a timeline. More steps than the remembered copies have come only from forged updates.
const MOST_STEPS: u32 = 1000;

impl Store {
    /// Returns one job, or `None` if the store has received no update of it, or has pruned it.
    ///
    /// See the [crate](crate) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn job(&self, id: &str) -> Result<Option<TrackedJob>> {
        Sql::new("SELECT * FROM leveret_jobs WHERE id = $1").arg(id).maybe(&mut self.reader().await?).await
    }

    /// Returns the known jobs among these, in no order.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert!(store.jobs_by_ids(&["order-17", "order-18"]).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn jobs_by_ids(&self, ids: &[impl AsRef<str> + Sync]) -> Result<Vec<TrackedJob>> {
        let list = text_list(ids.iter().map(AsRef::as_ref));
        let text = format!("SELECT * FROM leveret_jobs WHERE id IN {}", self.dialect().list("$1"));
        Sql::new(text).arg(list).all(&mut self.reader().await?).await
    }

    /// Returns the status updates of a job in order, at most 1,000.
    ///
    /// Of a job with very many copies (retries, snoozes) the store keeps the updates of the first 50 and of the last
    /// 50.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// for entry in store.timeline("order-17").await? {
    ///     println!("{} {} (attempt {})", entry.at, entry.step, entry.attempt);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn timeline(&self, id: &str) -> Result<Vec<TimelineEntry>> {
        let text = "SELECT * FROM leveret_job_steps WHERE id = $1 ORDER BY hop DESC, attempt DESC LIMIT $2";
        let sql = Sql::new(text).arg(id).arg(MOST_STEPS);
        let mut entries: Vec<TimelineEntry> = sql.all(&mut self.reader().await?).await?;
        let order = |step: &str| step.parse().map_or(usize::MAX, |state: JobState| state as usize);
        entries.sort_by_key(|entry| (entry.hop, entry.at, order(&entry.step)));
        Ok(entries)
    }

    /// Returns one page of the jobs that match a filter, without their results, newest first by creation. Jobs that are
    /// added meanwhile neither shift nor repeat an item.
    ///
    /// ```
    /// use leveret_store::{JobFilter, JobState};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let dead = JobFilter { states: vec![JobState::Dead], ..JobFilter::default() };
    /// let mut page = store.jobs(&dead, None, 100).await?;
    /// while let Some(next) = page.next {
    ///     page = store.jobs(&dead, Some(&next), 100).await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn jobs(&self, filter: &JobFilter, after: Option<&Cursor>, limit: u32) -> Result<Page<TrackedJob>> {
        // A result may be larger than all the rest of a page.
        let columns = COLUMNS.map(|column| if column == "result" { "CAST(NULL AS TEXT) AS result" } else { column });
        let mut sql = Sql::new(format!("SELECT {} FROM leveret_jobs WHERE 1 = 1", columns.join(", "))).slow();
        self.narrow(&mut sql, filter);
        if let Some(after) = after {
            sql.push(" AND (created_at, id) < (").bind(after.number()).push(", ").bind(after.id()).push(")");
        }
        sql.push(" ORDER BY created_at DESC, id DESC LIMIT ").bind(u64::from(limit) + 1);
        let jobs = sql.all(&mut self.reader().await?).await?;
        let bytes = |job: &TrackedJob| {
            let texts = [&job.label, &job.worker, &job.note, &job.error_kind, &job.error];
            let known = [&job.id, &job.job, &job.queue].into_iter().chain(texts.into_iter().flatten());
            known.map(String::len).sum()
        };
        let key = |job: &TrackedJob| (job.created_at.try_into().unwrap_or(i64::MAX), job.id.clone());
        Ok(Page::new(jobs, limit, bytes, key))
    }

    fn narrow(&self, sql: &mut Sql, filter: &JobFilter) {
        if !filter.states.is_empty() {
            let states = filter.states.iter().map(|state| format!("'{state}'")).collect::<Vec<_>>();
            sql.push(&format!(" AND state IN ({})", states.join(", ")));
        }
        if let Some(job) = &filter.job {
            sql.push(" AND job = ").bind(job.as_str());
        }
        if let Some(queue) = &filter.queue {
            sql.push(" AND queue = ").bind(queue.as_str());
        }
        if let Some(label) = &filter.label {
            let placeholder = sql.placeholder(label.to_ascii_lowercase().as_str());
            sql.push(" AND ").push(&self.dialect().contains_folded("label", &placeholder));
        }
        if let Some(from) = filter.created_from {
            sql.push(" AND created_at >= ").bind(from);
        }
        if let Some(until) = filter.created_until {
            sql.push(" AND created_at < ").bind(until);
        }
        if let Some(from) = filter.due_from {
            sql.push(" AND due_at >= ").bind(from);
        }
        if let Some(until) = filter.due_until {
            sql.push(" AND coalesce(due_at, 0) < ").bind(until);
        }
        if let Some(stale) = filter.stale {
            sql.push(" AND stale = ").bind(u32::from(stale));
        }
    }

    /// Counts the jobs in each state. States without a job are left out.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert!(store.counts().await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn counts(&self) -> Result<BTreeMap<JobState, u64>> {
        let sql = Sql::new("SELECT state, count(*) AS jobs FROM leveret_jobs GROUP BY state").slow();
        let read = |row: &Row| -> Result<Option<(JobState, u64)>> {
            let state: &str = row.try_get("state")?;
            Ok(state.parse().ok().zip(Some(row.number("jobs")?)))
        };
        sql.rows(&mut self.reader().await?).await?.iter().filter_map(|row| read(row).transpose()).collect()
    }

    /// Marks jobs as stale whose updates the server may have missed. Returns how many.
    ///
    /// It marks unfinished jobs with no update since `before_ms`, unless they were due only after that. The next update
    /// of such a job removes the mark.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// # let (now, kept_by_the_broker) = (1_800_000_000_000, 86_400_000);
    /// if store.heard_at().await?.is_some_and(|heard| now - heard > kept_by_the_broker) {
    ///     store.note_gap(now - kept_by_the_broker).await?;
    /// }
    /// store.heard(now).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn note_gap(&self, before_ms: u64) -> Result<u64> {
        let mut tx = self.write(WriteLock::Status).await?;
        let text = format!(
            "UPDATE leveret_jobs SET stale = 1
             WHERE {UNFINISHED} AND stale = 0 AND updated_at < $1 AND coalesce(due_at, 0) < $2"
        );
        let marked = Sql::new(text).slow().arg(before_ms).arg(before_ms).execute(&mut tx).await?;
        tx.commit().await?;
        Ok(marked)
    }

    /// Returns when a server last received updates from the broker, or `None` if none ever did.
    ///
    /// See [`note_gap`](Self::note_gap) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn heard_at(&self) -> Result<Option<u64>> {
        let sql = Sql::new("SELECT max(value) FROM leveret_facts WHERE name = 'heard_at'");
        Ok(sql.one::<Option<i64>>(&mut self.reader().await?).await?.map(number))
    }

    /// Records that this server received updates from the broker until `now`.
    ///
    /// See [`note_gap`](Self::note_gap) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn heard(&self, now: u64) -> Result<()> {
        let mut tx = self.write(WriteLock::Status).await?;
        let text = "INSERT INTO leveret_facts (name, value) VALUES ('heard_at', $1)
                    ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE excluded.value > leveret_facts.value";
        Sql::new(text).arg(Arg::from(now)).execute(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
