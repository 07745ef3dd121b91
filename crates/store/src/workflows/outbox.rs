//! The server's own outbox: the messages that a transition decided to publish, until the broker has confirmed them.
//!
//! The server that wrote a row publishes it at once. Another server publishes the row only after its lease has ended.
//! If a server is killed, its jobs are published late, and possibly twice.

use std::{collections::BTreeSet, ops::Range};

use leveret::workflow::engine::Action;
use leveret_sql::{
    Result,
    db::{Dialect, FromRow, Row, Sql, TimedConnection, chunks, number_list, text_list, without_nul},
};
use serde_json::json;

use super::{
    apply::Work,
    json_rows::{number, rows, table, text},
};
use crate::open::Store;

/// Lease of a message, in milliseconds, for the server that wrote or took it. If that server is killed, its messages
/// wait for the end of the lease.
const LEASE: u64 = 20_000;
/// The columns of a [`WorkflowMessage`].
const COLUMNS: &str = "id, workflow, kind, step, first, last, life, created_at, due_at, attempts, blocked_queue";

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
    /// The time at which the server decided to publish it, in milliseconds since the epoch.
    pub created_at: u64,
    /// The number of former attempts to publish it.
    pub attempts: u32,
    /// The time until which no other server publishes it, in milliseconds since the epoch.
    pub leased_until: u64,
    /// The queue that did not exist at the last attempt.
    pub blocked_queue: Option<String>,
}

/// A message that cannot be published for now.
#[derive(Clone, Debug)]
pub struct BlockedMessage {
    /// The message.
    pub message: WorkflowMessage,
    /// The queue that does not exist, if that is the reason.
    pub queue: Option<String>,
    /// The reason.
    pub error: String,
    /// The time from which any server may publish it, in milliseconds since the epoch.
    pub due_at: u64,
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

    /// Marks the message as uncertain: each of its jobs may have been published without a confirm.
    #[must_use]
    pub fn uncertain(self) -> Self {
        Self { attempts: self.attempts.max(1), blocked_queue: None, ..self }
    }

    /// Returns whether none of its jobs has been published: no server has tried yet, or its queue did not exist.
    pub(super) fn is_unpublished(&self) -> bool {
        self.kind == Kind::Step && (self.attempts == 0 || self.blocked_queue.is_some())
    }
}

/// Writes the messages that follow from the actions of all workflows. The caller has their lease.
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
                leased_until: 0,
                blocked_queue: None,
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
        sql.push(" RETURNING ").push(COLUMNS);
        messages.extend(sql.all::<WorkflowMessage>(tx).await?);
    }
    let cancelled: Vec<_> =
        works.iter().filter(|work| work.actions.contains(&Action::CancelJobs)).map(|work| work.key).collect();
    if cancelled.is_empty() {
        return Ok(());
    }
    // The waiting jobs of cancelled workflows are due now: they end without being published.
    let text = format!(
        "UPDATE leveret_workflow_outbox SET due_at = $1 WHERE workflow IN {} AND kind = 'step' AND error IS NOT NULL",
        tx.dialect().numbers("$2")
    );
    Sql::new(text).arg(now).arg(number_list(&cancelled)).execute(tx).await.map(drop)
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
            "UPDATE leveret_workflow_outbox SET due_at = $1, attempts = attempts + 1, error = NULL
             WHERE id IN (SELECT id FROM leveret_workflow_outbox WHERE due_at <= $2 ORDER BY due_at, id LIMIT $3 {lock})
             RETURNING {COLUMNS}"
        ));
        let sql = sql.arg(now.saturating_add(LEASE)).arg(now).arg(limit);
        let mut due: Vec<WorkflowMessage> = sql.all(&mut self.writer().await?).await?;
        due.sort_unstable_by_key(|message| message.id);
        Ok(due)
    }

    /// Renews leases, and returns the messages that are still the caller's: after the end of a lease another server may have
    /// published them.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store, waited: Vec<leveret_store::WorkflowMessage>) -> leveret_store::Result<()> {
    /// let own = store.renew_workflow_messages(waited, 1_800_000_000_000).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn renew_workflow_messages(
        &self,
        mut messages: Vec<WorkflowMessage>,
        now: u64,
    ) -> Result<Vec<WorkflowMessage>> {
        let (dialect, until) = (self.dialect(), now.saturating_add(LEASE));
        let leases: Vec<_> = messages.iter().map(|message| json!([message.id, message.leased_until])).collect();
        let sql = Sql::new(format!(
            "UPDATE leveret_workflow_outbox AS o SET due_at = $2 FROM {} WHERE o.id = {} AND o.due_at = {} RETURNING id",
            table(dialect),
            number(dialect, 0),
            number(dialect, 1)
        ));
        let renewed = sql.arg(rows(&leases)).arg(until).rows(&mut self.writer().await?).await?;
        let renewed: BTreeSet<i64> = renewed.iter().map(|row| row.try_get("id")).collect::<sqlx::Result<_>>()?;
        messages.retain(|message| renewed.contains(&message.id));
        messages.iter_mut().for_each(|message| message.leased_until = until);
        Ok(messages)
    }

    /// Records how many jobs of each message are published. Messages that waited for the same queue are then due.
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
        let mut tx = self.writer().await?.begin_by_keys().await?;
        let keys = published.iter().map(|(message, _)| message.workflow);
        let to_change = lock_shown(&mut tx, keys, "AND (started_at IS NULL OR blocked_queue IS NOT NULL)").await?;
        if !done.is_empty() {
            let text = format!("DELETE FROM leveret_workflow_outbox WHERE id IN {}", self.dialect().numbers("$1"));
            Sql::new(text).arg(number_list(&done)).execute(&mut tx).await?;
        }
        for (message, jobs) in published.iter().filter(|one| !is_done(one)) {
            let text =
                "UPDATE leveret_workflow_outbox SET first = $1, blocked_queue = NULL WHERE id = $2 AND first < $1";
            Sql::new(text).arg(message.first + jobs).arg(message.id).execute(&mut tx).await?;
        }
        if !to_change.is_empty() {
            let text = format!(
                "UPDATE leveret_workflows SET started_at = coalesce(started_at, $1) WHERE key IN {}",
                self.dialect().numbers("$2")
            );
            Sql::new(text).arg(now).arg(number_list(&to_change)).execute(&mut tx).await?;
            show_blocked(&mut tx, &to_change).await?;
        }
        tx.commit().await?;
        let queues: BTreeSet<_> =
            published.iter().filter_map(|(message, _)| message.blocked_queue.as_deref()).collect();
        if queues.is_empty() {
            return Ok(());
        }
        // Rows that another transaction has locked are left out, so that no two transactions wait for each other. Those
        // rows become due by their own time.
        let lock = if self.dialect() == Dialect::Postgres { "ORDER BY id FOR UPDATE SKIP LOCKED" } else { "" };
        let text = format!(
            "UPDATE leveret_workflow_outbox SET due_at = $1 WHERE id IN (
                 SELECT id FROM leveret_workflow_outbox WHERE blocked_queue IN {} AND error IS NOT NULL {lock})",
            self.dialect().list("$2")
        );
        Sql::new(text).arg(now).arg(text_list(queues)).execute(&mut self.writer().await?).await.map(drop)
    }

    /// Records that messages cannot be published for now. Their workflows show the queue that they wait for.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store, message: leveret_store::WorkflowMessage) -> leveret_store::Result<()> {
    /// let (queue, error) = (Some("labels".to_owned()), "the queue does not exist".to_owned());
    /// store.workflows_blocked(&[leveret_store::BlockedMessage { message, queue, error, due_at: 1_800_000_001_000 }]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflows_blocked(&self, blocked: &[BlockedMessage]) -> Result<()> {
        if blocked.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> = blocked
            .iter()
            .map(|one| {
                json!([one.message.id, one.queue, without_nul(&one.error), one.due_at, one.message.leased_until])
            })
            .collect();
        let mut tx = self.writer().await?.begin_by_keys().await?;
        let dialect = tx.dialect();
        let to_change = lock_shown(&mut tx, blocked.iter().map(|one| one.message.workflow), "").await?;
        let sql = Sql::new(format!(
            "UPDATE leveret_workflow_outbox AS o SET blocked_queue = {}, error = {}, due_at = {} FROM {}
             WHERE o.id = {} AND o.due_at = {}",
            text(dialect, 1),
            text(dialect, 2),
            number(dialect, 3),
            table(dialect),
            number(dialect, 0),
            number(dialect, 4)
        ));
        sql.arg(rows(&changes)).execute(&mut tx).await?;
        show_blocked(&mut tx, &to_change).await?;
        tx.commit().await
    }
}

/// Locks workflows in the order of their ids, and before their messages, as all transactions do. Returns the keys of
/// the workflows that meet the condition.
async fn lock_shown(tx: &mut TimedConnection, keys: impl Iterator<Item = i64>, condition: &str) -> Result<Vec<i64>> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    let lock = if tx.dialect() == Dialect::Postgres { "FOR UPDATE" } else { "" };
    let keys_in = tx.dialect().numbers("$1");
    let text = format!("SELECT key FROM leveret_workflows WHERE key IN {keys_in} {condition} ORDER BY id {lock}");
    let rows = Sql::new(text).arg(number_list(&keys)).rows(tx).await?;
    Ok(rows.iter().map(|row| row.try_get("key")).collect::<sqlx::Result<_>>()?)
}

/// Sets the shown queue of locked workflows to one that a message of theirs waits for.
async fn show_blocked(tx: &mut TimedConnection, keys: &[i64]) -> Result<()> {
    let queue =
        "(SELECT max(o.blocked_queue) FROM leveret_workflow_outbox AS o WHERE o.workflow = leveret_workflows.key)";
    let text = format!(
        "UPDATE leveret_workflows SET blocked_queue = {queue} WHERE key IN {} AND blocked_queue IS DISTINCT FROM {queue}",
        tx.dialect().numbers("$1")
    );
    Sql::new(text).arg(number_list(keys)).execute(tx).await.map(drop)
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
            leased_until: row.number("due_at")?,
            blocked_queue: row.try_get("blocked_queue")?,
        })
    }
}
