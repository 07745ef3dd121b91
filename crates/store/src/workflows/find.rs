//! Reads workflows, their steps and their jobs, and counts them.

use std::collections::BTreeMap;

use leveret::workflow::engine::MemberEnd;
use leveret_sql::{
    Result,
    db::{Dialect, Sql, TimedConnection},
};

use super::row::{STEP_COLUMNS, StoredStep, StoredWorkflow, StoredWorkflowJob, WORKFLOW_COLUMNS};
use crate::{
    open::Store,
    page::{Cursor, PAGE_BYTES, Page},
};

/// A filter of workflows. A workflow must match all of its fields; the default matches every workflow.
#[derive(Clone, Debug, Default)]
pub struct WorkflowFilter {
    /// With this status, by its name such as `Running`.
    pub status: Option<String>,
    /// With exactly this name.
    pub name: Option<String>,
    /// With this label, which has exactly this text.
    pub label: Option<(String, String)>,
}

/// Numbers of the jobs of a workflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkflowSums {
    /// All jobs of the steps so far: a running step may add more.
    pub total: u64,
    /// Succeeded.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// Skipped or cancelled.
    pub skipped: u64,
    /// Jobs of steps that have started: they are in their queue, or run.
    pub running: u64,
    /// Jobs of steps that have not started.
    pub waiting: u64,
}

/// Numbers of unfinished workflows, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkflowCounts {
    /// By the name of their status.
    pub by_status: BTreeMap<String, u64>,
    /// Workflows in the status `Waiting`, by the reason of the wait: `queue`, `operator` or `pause`.
    pub by_waiting: BTreeMap<String, u64>,
    /// Messages that are not published yet.
    pub unpublished: u64,
    /// The creation time of the oldest of these messages that does not wait for a missing queue, in milliseconds since
    /// the epoch.
    pub unpublished_since: Option<u64>,
    /// The time of the last change of the unfinished workflow that has stood still longest. Paused workflows and those that wait
    /// for an operator do not count.
    pub still_since: Option<u64>,
}

/// The most bytes of results of all first jobs.
const RESULT_BYTES: u64 = 1024 * 1024;

/// The status as `StoredWorkflow::status` shows it.
const SHOWN: &str = "CASE WHEN status = 'Running' AND blocked_queue IS NOT NULL THEN 'Waiting'
                          WHEN status = 'Running' AND started_at IS NULL THEN 'Pending' ELSE status END";

impl Store {
    /// Returns one workflow, or `None` if none has this id.
    ///
    /// See [`apply_workflows`](Self::apply_workflows) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow(&self, id: &str) -> Result<Option<StoredWorkflow>> {
        let text = format!("SELECT {WORKFLOW_COLUMNS} FROM leveret_workflows WHERE id = $1");
        Sql::new(text).arg(id).maybe(&mut self.reader().await?).await
    }

    /// Returns one page of the workflows that match a filter, newest first by their start.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let failed = leveret_store::WorkflowFilter { status: Some("Failed".into()), ..Default::default() };
    /// assert!(store.workflows(&failed, None, 100).await?.items.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflows(
        &self,
        filter: &WorkflowFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredWorkflow>> {
        let mut sql = Sql::new(format!("SELECT {WORKFLOW_COLUMNS} FROM leveret_workflows WHERE 1 = 1")).slow();
        if let Some(status) = &filter.status {
            // The first condition is for the index.
            let stored = ["Waiting", "Pending"].contains(&status.as_str());
            sql.push(if stored { " AND status IN ('Running', " } else { " AND status IN (" });
            sql.bind(status.as_str()).push(&format!(") AND {SHOWN} = ")).bind(status.as_str());
        }
        if let Some(name) = &filter.name {
            sql.push(" AND name = ").bind(name.as_str());
        }
        if let Some((name, text)) = &filter.label {
            let (name, text) = (sql.placeholder(name.as_str()), sql.placeholder(text.as_str()));
            sql.push(&match self.dialect() {
                Dialect::Sqlite => {
                    format!(" AND EXISTS (SELECT 1 FROM json_each(labels) WHERE key = {name} AND value = {text})")
                }
                Dialect::Postgres => format!(" AND labels::json->>{name} = {text}"),
            });
        }
        if let Some(after) = after {
            sql.push(" AND (created_at, id) < (").bind(after.number()).push(", ").bind(after.id()).push(")");
        }
        sql.push(" ORDER BY created_at DESC, id DESC LIMIT ").bind(u64::from(limit) + 1);
        let workflows = sql.all(&mut self.reader().await?).await?;
        let bytes = |workflow: &StoredWorkflow| {
            let labels: usize = workflow.labels.iter().map(|(name, text)| name.len() + text.len()).sum();
            let failures = [&workflow.state.cause, &workflow.state.alarm].into_iter().flatten();
            256 + labels + failures.map(|failure| failure.error.len()).sum::<usize>()
        };
        let key =
            |workflow: &StoredWorkflow| (workflow.created_at.try_into().unwrap_or(i64::MAX), workflow.state.id.clone());
        Ok(Page::new(workflows, limit, bytes, key))
    }

    /// Returns the steps of a workflow in the order of their definition, from one position on, at most `limit`.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store) -> leveret_store::Result<()> {
    /// if let Some(workflow) = store.workflow("order-17").await? {
    ///     for step in store.workflow_steps(&workflow, 0, 100).await? {
    ///         println!("{}: {:?}", step.state.name, step.state.phase);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow_steps(&self, workflow: &StoredWorkflow, from: u32, limit: u32) -> Result<Vec<StoredStep>> {
        let text = format!(
            "SELECT {STEP_COLUMNS}, (SELECT max(o.blocked_queue) FROM leveret_workflow_outbox AS o
                                     WHERE o.workflow = s.workflow AND o.step = s.position) AS blocked_queue
             FROM leveret_workflow_steps AS s WHERE s.workflow = $1 AND s.position >= $2
             ORDER BY s.position LIMIT $3"
        );
        Sql::new(text).arg(workflow.key).arg(from).arg(limit).all(&mut self.reader().await?).await
    }

    /// Returns one step of a workflow, or `None` if none has this name.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    ///
    /// See [`workflow_steps`](Self::workflow_steps) for an example.
    pub async fn workflow_step(&self, workflow: &StoredWorkflow, name: &str) -> Result<Option<StoredStep>> {
        let text = format!(
            "SELECT {STEP_COLUMNS}, CAST(NULL AS TEXT) AS blocked_queue FROM leveret_workflow_steps AS s
             WHERE s.workflow = $1 AND s.name = $2"
        );
        Sql::new(text).arg(workflow.key).arg(name).maybe(&mut self.reader().await?).await
    }

    /// Returns the first job of each of these steps, by the position of the step: those that have ended or are in a later
    /// life. All together have at most 1 MiB of results; the others are left out.
    ///
    /// See [`workflow_steps`](Self::workflow_steps) for an example of a workflow.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow_first_jobs(
        &self,
        workflow: &StoredWorkflow,
        from: u32,
        limit: u32,
    ) -> Result<Vec<StoredWorkflowJob>> {
        let text =
            "SELECT j.workflow, j.step, j.role, j.member, j.life, j.outcome, j.error_kind, j.error, j.replayed_at,
                           j.attempt, j.started_at, j.ended_at, j.worker, j.too_large,
                           CASE WHEN sum(octet_length(j.result)) OVER (ORDER BY j.step) <= $4
                                THEN j.result END AS result
                    FROM leveret_workflow_steps AS s CROSS JOIN leveret_workflow_jobs AS j
                    WHERE s.workflow = $1 AND s.position >= $2 AND s.position < $3
                        AND j.workflow = s.workflow AND j.step = s.position AND j.role = 0 AND j.member = 0";
        let sql = Sql::new(text).arg(workflow.key).arg(from).arg(u64::from(from) + u64::from(limit)).arg(RESULT_BYTES);
        sql.all(&mut self.reader().await?).await
    }

    /// Returns jobs of one step in the order of their members, from one on: those that have ended or are in a later life,
    /// at most `limit` and about 1 MiB of results and errors.
    ///
    /// See [`workflow_steps`](Self::workflow_steps) for an example of a workflow.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow_jobs(
        &self,
        workflow: &StoredWorkflow,
        step: &StoredStep,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredWorkflowJob>> {
        // `bytes` counts more than this sum. So if the sum leaves rows out, the page ends before the last selected row.
        // Both databases evaluate the inner query once, because it is one value and depends on no row.
        let text = "SELECT * FROM leveret_workflow_jobs
                    WHERE workflow = $1 AND step = $2 AND role = 0 AND member > $3 AND member <= (
                        SELECT max(member) FROM (
                            SELECT member, sum(size) OVER (ORDER BY member) - size AS ahead,
                                   row_number() OVER (ORDER BY member) AS place
                            FROM (SELECT member,
                                         coalesce(octet_length(result), 0) + coalesce(octet_length(error), 0) AS size
                                  FROM leveret_workflow_jobs
                                  WHERE workflow = $1 AND step = $2 AND role = 0 AND member > $3
                                  ORDER BY member LIMIT $4) AS sized) AS summed
                        WHERE place <= 2 OR ahead < $5) ORDER BY member";
        let after = after.map_or(-1, Cursor::number);
        let sql = Sql::new(text).arg(workflow.key).arg(step.position).arg(after).arg(u64::from(limit) + 1);
        let jobs = sql.arg(PAGE_BYTES as u64).all(&mut self.reader().await?).await?;
        Ok(Page::new(jobs, limit, bytes, |job: &StoredWorkflowJob| (job.member.into(), String::new())))
    }

    /// Returns the sums of the jobs of all steps of a workflow.
    ///
    /// See [`workflow_steps`](Self::workflow_steps) for an example of a workflow.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow_sums(&self, workflow: &StoredWorkflow) -> Result<WorkflowSums> {
        let dialect = self.dialect();
        let number = |name: &str| match dialect {
            Dialect::Sqlite => format!("sum(json_extract(state, '$.{name}'))"),
            Dialect::Postgres => format!("sum((state::json->>'{name}')::bigint)::bigint"),
        };
        let text = format!(
            "SELECT CAST(CASE WHEN phase IN ('blocked', 'held') THEN 1 ELSE 0 END AS BIGINT) AS is_waiting, {} AS size,
                 {} AS completed, {} AS failed, {} AS skipped, {} AS cancelled
             FROM leveret_workflow_steps WHERE workflow = $1 GROUP BY 1",
            number("size"),
            number("completed"),
            number("failed"),
            number("skipped"),
            number("cancelled")
        );
        let mut sums = WorkflowSums::default();
        for row in Sql::new(text).arg(workflow.key).slow().rows(&mut self.reader().await?).await? {
            let ended = |name: &str| Ok::<_, sqlx::Error>(row.maybe_number::<u64>(name)?.unwrap_or(0));
            let (completed, failed) = (ended("completed")?, ended("failed")?);
            let skipped = ended("skipped")? + ended("cancelled")?;
            let size = ended("size")?;
            sums.total += size;
            sums.completed += completed;
            sums.failed += failed;
            sums.skipped += skipped;
            let open = size.saturating_sub(completed + failed + skipped);
            if row.flag("is_waiting")? {
                sums.waiting += open;
            } else {
                sums.running += open;
            }
        }
        Ok(sums)
    }

    /// Counts unfinished workflows and unpublished messages.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert_eq!(store.count_workflows().await?, Default::default());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn count_workflows(&self) -> Result<WorkflowCounts> {
        let mut on = self.reader().await?;
        let mut counts = WorkflowCounts::default();
        let waiting = "CASE WHEN status = 'Running' THEN 'queue' ELSE coalesce(waiting_for, '') END";
        let text = format!(
            "SELECT {SHOWN} AS shown, {waiting} AS waiting, count(*) AS workflows FROM leveret_workflows
             WHERE ended_at IS NULL GROUP BY {SHOWN}, {waiting}"
        );
        for row in Sql::new(text).slow().rows(&mut on).await? {
            let (shown, waiting): (String, String) = (row.try_get("shown")?, row.try_get("waiting")?);
            let workflows: u64 = row.number("workflows")?;
            if shown == "Waiting" {
                *counts.by_waiting.entry(waiting).or_default() += workflows;
            }
            *counts.by_status.entry(shown).or_default() += workflows;
        }
        let text = "SELECT count(*) AS unpublished, min(CASE WHEN blocked_queue IS NULL THEN created_at END) AS since
                    FROM leveret_workflow_outbox";
        for row in Sql::new(text).slow().rows(&mut on).await? {
            counts.unpublished = row.number("unpublished")?;
            counts.unpublished_since = row.maybe_number("since")?;
        }
        counts.still_since = still_since(&mut on).await?;
        Ok(counts)
    }
}

/// The size of a job in a page.
fn bytes(job: &StoredWorkflowJob) -> usize {
    let error = match &job.state.end {
        Some(MemberEnd::Failed { kind, error }) => kind.len() + error.len(),
        _ => 0,
    };
    128 + error + job.result.as_ref().map_or(0, String::len)
}

async fn still_since(on: &mut TimedConnection) -> Result<Option<u64>> {
    let text = "SELECT min(updated_at) AS since FROM leveret_workflows
                WHERE ended_at IS NULL AND coalesce(waiting_for, '') NOT IN ('pause', 'operator')";
    let rows = Sql::new(text).slow().rows(on).await?;
    Ok(rows.first().map(|row| row.maybe_number("since")).transpose()?.flatten())
}
