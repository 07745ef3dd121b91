//! Finds tracked jobs, and keeps account of when they were last heard of.

use std::collections::BTreeMap;

use leveret_sql::{
    Result,
    db::{Arg, Row, Sql, number, text_list},
};

use super::{
    job::{Filter, Job, State, TimelineEntry, UNFINISHED},
    record::COLUMNS,
};
use crate::{
    open::{Store, WriteLock},
    page::{Cursor, Page},
};

/// More steps than those of the copies that are remembered only somebody tells who forges them.
const MOST_STEPS: u32 = 1000;

impl Store {
    /// One job; `None` if no event of it came, or it was pruned.
    ///
    /// See the [crate](crate) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn job(&self, id: &str) -> Result<Option<Job>> {
        Sql::new("SELECT * FROM leveret_jobs WHERE id = $1").arg(id).maybe(&mut self.reader().await?).await
    }

    /// Those of these jobs that are known, in no order.
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
    pub async fn jobs_by_ids(&self, ids: &[impl AsRef<str> + Sync]) -> Result<Vec<Job>> {
        let list = text_list(ids.iter().map(AsRef::as_ref));
        let text = format!("SELECT * FROM leveret_jobs WHERE id IN {}", self.dialect().list("$1"));
        Sql::new(text).arg(list).all(&mut self.reader().await?).await
    }

    /// The steps of a job, in the order in which it goes through them. Of one that had very many copies (retries,
    /// snoozes), those of the first 50 and of the last 50; at most 1,000 steps.
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
        let order = |step: &str| step.parse().map_or(usize::MAX, |state: State| state as usize);
        entries.sort_by_key(|entry| (entry.hop, entry.at, order(&entry.step)));
        Ok(entries)
    }

    /// One page of the jobs that fit, newest first by creation, without their results. Jobs that come meanwhile neither shift nor double any.
    ///
    /// ```
    /// use leveret_store::{Filter, State};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let dead = Filter { states: vec![State::Dead], ..Filter::default() };
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
    pub async fn jobs(&self, filter: &Filter, after: Option<&Cursor>, limit: u32) -> Result<Page<Job>> {
        // A result may be larger than all the rest of a page.
        let columns = COLUMNS.map(|column| if column == "result" { "CAST(NULL AS TEXT) AS result" } else { column });
        let mut sql = Sql::new(format!("SELECT {} FROM leveret_jobs WHERE 1 = 1", columns.join(", "))).slow();
        self.narrow(&mut sql, filter);
        if let Some(after) = after {
            sql.push(" AND (created_at, id) < (").bind(after.number()).push(", ").bind(after.id()).push(")");
        }
        sql.push(" ORDER BY created_at DESC, id DESC LIMIT ").bind(u64::from(limit) + 1);
        let jobs = sql.all(&mut self.reader().await?).await?;
        let bytes = |job: &Job| {
            let texts = [&job.label, &job.worker, &job.note, &job.error_kind, &job.error];
            let known = [&job.id, &job.job, &job.queue].into_iter().chain(texts.into_iter().flatten());
            known.map(String::len).sum()
        };
        let key = |job: &Job| (job.created_at.try_into().unwrap_or(i64::MAX), job.id.clone());
        Ok(Page::new(jobs, limit, bytes, key))
    }

    fn narrow(&self, sql: &mut Sql, filter: &Filter) {
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
            let place = sql.placeholder(label.to_ascii_lowercase().as_str());
            sql.push(" AND ").push(&self.dialect().contains_folded("label", &place));
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

    /// How many jobs are in each state; a state that has none is left out.
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
    pub async fn counts(&self) -> Result<BTreeMap<State, u64>> {
        let sql = Sql::new("SELECT state, count(*) AS jobs FROM leveret_jobs GROUP BY state").slow();
        let read = |row: &Row| -> Result<Option<(State, u64)>> {
            let state: &str = row.try_get("state")?;
            Ok(state.parse().ok().zip(Some(row.number("jobs")?)))
        };
        sql.rows(&mut self.reader().await?).await?.iter().filter_map(|row| read(row).transpose()).collect()
    }

    /// Notes that events were missed: marks unfinished jobs that were not heard of since `before_ms`, and were not to
    /// wait until then, as stale. The next event of such a job takes the mark away.
    ///
    /// Returns how many were marked.
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

    /// When events were last taken from the broker, by whatever server; `None` if never.
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

    /// Keeps that events were taken from the broker until `now`.
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
