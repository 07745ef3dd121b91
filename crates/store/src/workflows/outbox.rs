//! The server's own outbox: what a transition decided to publish, until the broker has confirmed it.
//!
//! The server that wrote a row publishes it at once. No other server touches the row until its lease ends, because the first
//! one was killed or could not publish. So a job may be published twice, and is never forgotten.

use std::ops::Range;

use leveret::workflow::engine::Action;
use leveret_sql::{
    Result,
    db::{Dialect, FromRow, Row, Sql, TimedConnection, chunks, number_list},
};

use super::apply::Work;
use crate::open::Store;

/// The time in milliseconds for which a server has the messages that it publishes.
const LEASE: u64 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Step,
    Compensation,
    OnFailure,
    Cancel,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Compensation => "compensation",
            Self::OnFailure => "on_failure",
            Self::Cancel => "cancel",
        }
    }
}

/// A message to publish: jobs of one step, or the cancellation of all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowMessage {
    /// Its number.
    pub id: i64,
    pub(super) workflow: i64,
    pub(super) kind: Kind,
    pub(super) step: i64,
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) life: u32,
    /// The time at which it was decided, in milliseconds since the epoch.
    pub created_at: u64,
    /// The number of former attempts to publish it.
    pub attempts: u32,
}

impl WorkflowMessage {
    /// Returns how many jobs are not published yet.
    #[must_use]
    pub fn jobs(&self) -> u32 {
        self.last.saturating_sub(self.first)
    }

    /// Returns the message without its first jobs, which are published.
    #[must_use]
    pub fn without_first(self, jobs: u32) -> Self {
        Self { first: self.first.saturating_add(jobs).min(self.last), ..self }
    }
}

/// Writes what follows from the actions of all workflows. The caller has the lease.
pub(super) async fn decide(
    tx: &mut TimedConnection,
    works: &[Work],
    messages: &mut Vec<WorkflowMessage>,
    now: u64,
) -> Result<()> {
    let mut decided = Vec::new();
    for work in works {
        for action in &work.actions {
            let position = |step: &str| work.positions.get(step).copied().unwrap_or_default();
            let (kind, step, members, life) = match action {
                Action::Publish { step, members, life } => (Kind::Step, position(step), members.clone(), *life),
                Action::Compensate { step, life } => (Kind::Compensation, position(step), 0..1, *life),
                Action::OnFailure { life } => (Kind::OnFailure, -1, 0..1, *life),
                Action::CancelJobs => (Kind::Cancel, -1, 0..1, 1),
                Action::Alarm(_) | Action::Ended(_) => continue,
            };
            let (workflow, Range { start: first, end: last }) = (work.key, members);
            decided.push(WorkflowMessage {
                id: 0,
                workflow,
                kind,
                step,
                first,
                last,
                life,
                created_at: now,
                attempts: 0,
            });
        }
    }
    for chunk in chunks(&decided) {
        let mut sql = Sql::new(
            "INSERT INTO leveret_workflow_outbox (workflow, kind, step, first, last, life, created_at, due_at, attempts)
             VALUES ",
        );
        sql.values(chunk.iter().map(|message| {
            [
                message.workflow.into(),
                message.kind.as_str().into(),
                message.step.into(),
                message.first.into(),
                message.last.into(),
                message.life.into(),
                now.into(),
                now.saturating_add(LEASE).into(),
                0u32.into(),
            ]
        }));
        sql.push(" RETURNING id, workflow, kind, step, first, last, life, created_at, attempts");
        messages.extend(sql.all::<WorkflowMessage>(tx).await?);
    }
    Ok(())
}

impl Store {
    /// Takes messages whose time has come, and leases them to the caller.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert!(store.due_workflow_messages(1_800_000_000_000, 100).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn due_workflow_messages(&self, now: u64, limit: u32) -> Result<Vec<WorkflowMessage>> {
        let lock = if self.dialect() == Dialect::Postgres { "FOR UPDATE SKIP LOCKED" } else { "" };
        let sql = Sql::new(format!(
            "UPDATE leveret_workflow_outbox SET due_at = $1, attempts = attempts + 1
             WHERE id IN (SELECT id FROM leveret_workflow_outbox WHERE due_at <= $2 ORDER BY due_at, id LIMIT $3 {lock})
             RETURNING id, workflow, kind, step, first, last, life, created_at, attempts"
        ));
        let sql = sql.arg(now.saturating_add(LEASE)).arg(now).arg(limit);
        let mut due: Vec<WorkflowMessage> = sql.all(&mut self.writer().await?).await?;
        due.sort_unstable_by_key(|message| message.id);
        Ok(due)
    }

    /// Records that the jobs of messages are published: for each, how many.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store, message: leveret_store::WorkflowMessage) -> leveret_store::Result<()> {
    /// store.workflow_published(&[(message, 1)], 1_800_000_000_000).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow_published(&self, published: &[(WorkflowMessage, u32)], now: u64) -> Result<()> {
        if published.is_empty() {
            return Ok(());
        }
        let is_done = |(message, jobs): &&(WorkflowMessage, u32)| message.first + jobs >= message.last;
        let done: Vec<_> = published.iter().filter(is_done).map(|(message, _)| message.id).collect();
        let mut workflows: Vec<_> = published.iter().map(|(message, _)| message.workflow).collect();
        workflows.sort_unstable();
        workflows.dedup();
        let mut tx = self.writer().await?.begin().await?;
        let to_change = self.lock_shown(&mut tx, &workflows).await?;
        if !done.is_empty() {
            let text = format!("DELETE FROM leveret_workflow_outbox WHERE id IN {}", self.dialect().numbers("$1"));
            Sql::new(text).arg(number_list(&done)).execute(&mut tx).await?;
        }
        for (message, jobs) in published.iter().filter(|one| !is_done(one)) {
            let text = "UPDATE leveret_workflow_outbox SET first = $1, due_at = $2, blocked_queue = NULL, error = NULL
                        WHERE id = $3 AND first < $1";
            let sql = Sql::new(text).arg(message.first + jobs).arg(now.saturating_add(LEASE)).arg(message.id);
            sql.execute(&mut tx).await?;
        }
        if !to_change.is_empty() {
            let text = format!(
                "UPDATE leveret_workflows SET started_at = coalesce(started_at, $1), blocked_queue =
                     (SELECT max(o.blocked_queue) FROM leveret_workflow_outbox AS o WHERE o.workflow = leveret_workflows.key)
                 WHERE key IN {}",
                self.dialect().numbers("$2")
            );
            Sql::new(text).arg(now).arg(number_list(&to_change)).execute(&mut tx).await?;
        }
        tx.commit().await
    }

    /// Locks the workflows whose first job is published, or that wait for a queue. In the order of their ids, and before
    /// their messages, as all transactions do.
    async fn lock_shown(&self, tx: &mut TimedConnection, workflows: &[i64]) -> Result<Vec<i64>> {
        let lock = if self.dialect() == Dialect::Postgres { "FOR UPDATE" } else { "" };
        let text = format!(
            "SELECT key FROM leveret_workflows
             WHERE key IN {} AND (started_at IS NULL OR blocked_queue IS NOT NULL) ORDER BY id {lock}",
            self.dialect().numbers("$1")
        );
        let rows = Sql::new(text).arg(number_list(workflows)).rows(tx).await?;
        Ok(rows.iter().map(|row| row.try_get("key")).collect::<sqlx::Result<_>>()?)
    }

    /// Records that a message cannot be published before `due_at`: `queue` does not exist, or there is another error. The
    /// workflow shows the queue that it waits for.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store, message: leveret_store::WorkflowMessage) -> leveret_store::Result<()> {
    /// let now = 1_800_000_000_000;
    /// store.workflow_blocked(&message, Some("labels"), "the queue does not exist", now + 1_000).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow_blocked(
        &self,
        message: &WorkflowMessage,
        queue: Option<&str>,
        error: &str,
        due_at: u64,
    ) -> Result<()> {
        let mut tx = self.writer().await?.begin().await?;
        if queue.is_some() {
            let text = "UPDATE leveret_workflows SET blocked_queue = $1 WHERE key = $2 AND blocked_queue IS NULL
                        AND EXISTS (SELECT 1 FROM leveret_workflow_outbox WHERE id = $3)";
            Sql::new(text).arg(queue).arg(message.workflow).arg(message.id).execute(&mut tx).await?;
        }
        let text = "UPDATE leveret_workflow_outbox SET blocked_queue = $1, error = $2, due_at = $3 WHERE id = $4";
        Sql::new(text).arg(queue).arg(error).arg(due_at).arg(message.id).execute(&mut tx).await?;
        tx.commit().await
    }
}

impl FromRow for WorkflowMessage {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let kind = match row.try_get("kind")? {
            "step" => Kind::Step,
            "compensation" => Kind::Compensation,
            "on_failure" => Kind::OnFailure,
            _ => Kind::Cancel,
        };
        Ok(Self {
            id: row.try_get("id")?,
            workflow: row.try_get("workflow")?,
            kind,
            step: row.try_get("step")?,
            first: row.number("first")?,
            last: row.number("last")?,
            life: row.number("life")?,
            created_at: row.number("created_at")?,
            attempts: row.number("attempts")?,
        })
    }
}
