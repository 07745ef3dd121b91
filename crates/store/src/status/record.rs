//! Writes updates: the jobs that they change, and their timeline.

use std::{borrow::Cow, collections::HashMap};

use leveret::{
    status_update::{StatusUpdate, Transition},
    time::unix_ms,
};
use leveret_sql::{
    Result,
    db::{Arg, Sql, TimedConnection, chunks, text_list, without_nul},
};
use serde_json::Value;

use super::{
    fold::{Relation, is_same},
    job::{StatusChange, TrackedJob},
};
use crate::{
    open::{Store, WriteLock},
    unique::{Done, free_done},
};

pub(super) const COLUMNS: [&str; 28] = [
    "id",
    "label",
    "job",
    "queue",
    "priority",
    "state",
    "attempt",
    "hop",
    "step_rank",
    "moment",
    "created_at",
    "due_at",
    "expires_at",
    "started_at",
    "finished_at",
    "updated_at",
    "worker",
    "progress",
    "note",
    "error_kind",
    "error",
    "result",
    "too_large",
    "cancel_hop",
    "cancel_requested_at",
    "stale",
    "origin",
    "wire_id",
];

/// The copies of a job whose status updates are kept: the first ones, and the last ones.
const FIRST_HOPS: u32 = 50;
const LAST_HOPS: u32 = 50;

/// An update, with the id of the row that it belongs to.
type StepOf<'a> = (String, &'a StatusUpdate);

/// The lines of a timeline, by their key.
type Lines<'a> = HashMap<(&'a str, u32, u32, &'static str), &'a StepOf<'a>>;

/// The effect of updates.
struct Folded<'a> {
    /// The jobs that change, in the order of their first updates.
    changed: Vec<TrackedJob>,
    steps: Vec<StepOf<'a>>,
    /// Rows that now belong to another job. Their status updates so far are deleted.
    renewed: Vec<String>,
    /// The ends of jobs without a row.
    ends_apart: Vec<&'a StatusUpdate>,
}

impl Store {
    /// Records updates, all or none, and returns the jobs that they changed.
    ///
    /// Late, duplicate and shuffled updates do not move a job back: it ends in the state to which the same updates in
    /// order would have brought it. An update of a pruned job creates it again.
    ///
    /// See the [crate](crate) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database). Nothing was written then.
    pub async fn record(&self, updates: &[StatusUpdate]) -> Result<Vec<StatusChange>> {
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let updates = &*as_kept(updates);
        let mut tx = self.write(WriteLock::Status).await?;
        let known = self.known(&mut tx, updates).await?;
        let Folded { changed, steps, renewed, ends_apart } = fold(&known, updates);
        if !renewed.is_empty() {
            let text = format!("DELETE FROM leveret_job_steps WHERE id IN {}", self.dialect().list("$1"));
            Sql::new(text).arg(text_list(renewed.iter().map(String::as_str))).execute(&mut tx).await?;
        }
        for chunk in chunks(&changed) {
            upsert(chunk).execute(&mut tx).await?;
        }
        for chunk in chunks(&timeline(&steps)) {
            note(chunk).execute(&mut tx).await?;
        }
        self.thin_out(&mut tx, &changed).await?;
        free_done(&mut tx, &done(&changed, &ends_apart, updates), |position| self.dialect().list(position)).await?;
        tx.commit().await?;
        Ok(changed.into_iter().map(|job| StatusChange { id: job.id, state: job.state }).collect())
    }
}

impl Store {
    /// Reads the rows that these updates may belong to, by id.
    async fn known(&self, tx: &mut TimedConnection, updates: &[StatusUpdate]) -> Result<HashMap<String, TrackedJob>> {
        let known = self.rows(tx, updates.iter().map(|update| update.id.as_str())).await?;
        // An id nearly always has one job.
        let mut first: HashMap<&str, &StatusUpdate> = HashMap::new();
        let others = updates.iter().filter(|update| {
            let before = *first.entry(update.id.as_str()).or_insert(update);
            let is_other = |job: &TrackedJob| job.relation(update) != Relation::Own;
            let first = (before.origin.as_deref(), before.job.as_str(), before.queue.as_str());
            known.get(update.id.as_str()).is_some_and(is_other) || !is_same(first, update)
        });
        let others: Vec<_> = others.map(full_id).collect();
        if others.is_empty() {
            return Ok(known);
        }
        let mut all = self.rows(tx, others.iter().map(String::as_str)).await?;
        all.extend(known);
        Ok(all)
    }

    async fn rows(
        &self,
        tx: &mut TimedConnection,
        ids: impl Iterator<Item = &str>,
    ) -> Result<HashMap<String, TrackedJob>> {
        let text = format!("SELECT * FROM leveret_jobs WHERE id IN {}", self.dialect().list("$1"));
        let rows: Vec<TrackedJob> = Sql::new(text).arg(text_list(ids)).all(tx).await?;
        Ok(rows.into_iter().map(|job| (job.id.clone(), job)).collect())
    }

    /// Deletes the status updates of the middle copies of a job, such as one that snoozes every second for a day.
    async fn thin_out(&self, tx: &mut TimedConnection, changed: &[TrackedJob]) -> Result<()> {
        let long = changed.iter().filter(|job| job.hop >= FIRST_HOPS + LAST_HOPS).map(|job| job.id.as_str());
        let long: Vec<_> = long.collect();
        if long.is_empty() {
            return Ok(());
        }
        let text = format!(
            "DELETE FROM leveret_job_steps WHERE id IN {} AND hop >= {FIRST_HOPS} AND hop <=
             (SELECT hop FROM leveret_jobs WHERE leveret_jobs.id = leveret_job_steps.id) - {LAST_HOPS}",
            self.dialect().list("$1")
        );
        Sql::new(text).arg(text_list(long)).execute(tx).await.map(drop)
    }
}

/// The jobs whose unique keys are free: they have ended, with a row or without one (`ends_apart`), or were cancelled.
fn done<'a>(changed: &'a [TrackedJob], ends_apart: &[&'a StatusUpdate], updates: &'a [StatusUpdate]) -> Vec<Done<'a>> {
    let ended = changed.iter().filter(|job| job.state.is_terminal());
    let ended = ended.map(|job| (job.wire_id(), Some(job.origin.as_deref().unwrap_or_default())));
    let apart = ends_apart.iter().map(|end| (end.id.as_str(), Some(end.origin.as_deref().unwrap_or_default())));
    let cancelled = updates.iter().filter(|update| matches!(update.transition, Transition::CancelRequested));
    ended.chain(apart).chain(cancelled.map(|update| (update.id.as_str(), update.origin.as_deref()))).collect()
}

/// Replaces NUL in the fields that distinguish jobs, as the database does. Two jobs here must be two jobs there.
fn as_kept(updates: &[StatusUpdate]) -> Cow<'_, [StatusUpdate]> {
    let is_kept = |update: &StatusUpdate| {
        [update.id.as_str(), &update.job, &update.queue]
            .into_iter()
            .chain(update.origin.as_deref())
            .all(|text| !text.contains('\0'))
    };
    if updates.iter().all(is_kept) {
        return Cow::Borrowed(updates);
    }
    let kept = |update: &StatusUpdate| StatusUpdate {
        id: without_nul(&update.id).into(),
        job: without_nul(&update.job),
        queue: without_nul(&update.queue),
        origin: update.origin.as_deref().map(without_nul),
        ..update.clone()
    };
    updates.iter().map(kept).collect()
}

/// The id of a row whose plain id is another job's: two jobs of an order may both have the id of the order.
fn full_id(update: &StatusUpdate) -> String {
    format!("{}@{}:{}", update.id, update.queue, update.job)
}

/// Assigns each update to its row.
///
/// The plain id stays with the first job of this id. So a publisher who knows an id cannot change the row of its job.
/// Of all other jobs with that id, name and queue the last one has a row, under the full id. Jobs beside it, before its
/// end, have none.
fn fold<'a>(known: &HashMap<String, TrackedJob>, updates: &'a [StatusUpdate]) -> Folded<'a> {
    let mut folded = Folded {
        changed: Vec::new(),
        steps: Vec::with_capacity(updates.len()),
        renewed: Vec::new(),
        ends_apart: Vec::new(),
    };
    let mut positions: HashMap<String, usize> = HashMap::new();
    for update in updates {
        for is_plain in [true, false] {
            let id = if is_plain { update.id.to_string() } else { full_id(update) };
            let position = *positions.entry(id.clone()).or_insert_with(|| {
                folded.changed.push(known.get(&id).cloned().unwrap_or_else(|| TrackedJob::new(&id, update)));
                folded.changed.len() - 1
            });
            let job = &mut folded.changed[position];
            let relation = job.relation(update);
            if relation != Relation::Own && is_plain {
                continue;
            }
            if relation == Relation::Next {
                *job = TrackedJob::new(&id, update);
                folded.renewed.push(job.id.clone());
                // Updates of the previous job, in this batch.
                folded.steps.retain(|(of, _)| *of != job.id);
            }
            if relation != Relation::Other {
                job.apply(update);
                folded.steps.push((job.id.clone(), update));
            } else if update.transition.is_terminal() {
                folded.ends_apart.push(update);
            }
            break;
        }
    }
    folded.changed.retain(|job| known.get(&job.id).is_none_or(|before| before != job));
    folded
}

fn upsert(jobs: &[TrackedJob]) -> Sql {
    let updates: Vec<_> = COLUMNS[1..].iter().map(|column| format!("{column} = excluded.{column}")).collect();
    let mut sql = Sql::new(format!("INSERT INTO leveret_jobs ({}) VALUES ", COLUMNS.join(", ")));
    sql.values(jobs.iter().map(row));
    sql.push(&format!(" ON CONFLICT (id) DO UPDATE SET {}", updates.join(", ")));
    sql
}

fn row(job: &TrackedJob) -> [Arg; COLUMNS.len()] {
    [
        job.id.as_str().into(),
        job.label.as_deref().into(),
        job.job.as_str().into(),
        job.queue.as_str().into(),
        job.priority.map(u64::from).into(),
        job.state.as_str().into(),
        job.attempt.into(),
        job.hop.into(),
        u32::from(job.position.rank).into(),
        job.position.moment.into(),
        job.created_at.into(),
        job.due_at.into(),
        job.expires_at.into(),
        job.started_at.into(),
        job.finished_at.into(),
        job.updated_at.into(),
        job.worker.as_deref().into(),
        job.progress.into(),
        job.note.as_deref().into(),
        job.error_kind.as_deref().into(),
        job.error.as_deref().into(),
        Arg::Text(job.result.as_ref().map(Value::to_string)),
        job.too_large.into(),
        job.cancel_hop.map(u64::from).into(),
        job.cancel_requested_at.into(),
        u32::from(job.stale).into(),
        job.origin.as_deref().into(),
        job.wire_id.as_deref().into(),
    ]
}

/// The first update of each key. One statement cannot write a key twice.
fn timeline<'a>(steps: &'a [StepOf<'a>]) -> Vec<&'a StepOf<'a>> {
    let mut lines = Lines::new();
    for step in steps.iter().filter(|(_, update)| !matches!(update.transition, Transition::Progress { .. })) {
        let (id, update) = step;
        let first = lines.entry((id, update.hop, update.attempt, update.transition.name())).or_insert(step);
        if update.at < first.1.at {
            *first = step;
        }
    }
    lines.into_values().collect()
}

fn note(steps: &[&StepOf<'_>]) -> Sql {
    let mut sql = Sql::new("INSERT INTO leveret_job_steps (id, hop, attempt, step, at, worker, detail) VALUES ");
    sql.values(steps.iter().map(|(id, update)| {
        [
            id.as_str().into(),
            update.hop.into(),
            update.attempt.into(),
            update.transition.name().into(),
            unix_ms(update.at).into(),
            update.worker.as_deref().into(),
            Arg::Text(detail(&update.transition)),
        ]
    }));
    sql.push(
        " ON CONFLICT (id, hop, attempt, step) DO UPDATE
         SET at = excluded.at, worker = excluded.worker, detail = excluded.detail
         WHERE excluded.at < leveret_job_steps.at",
    );
    sql
}

/// The fields of a status update, without its name. A result is stored with the job.
fn detail(transition: &Transition) -> Option<String> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(transition) else { return None };
    fields.retain(|name, value| !["event", "result"].contains(&name.as_str()) && !value.is_null());
    (!fields.is_empty()).then(|| Value::Object(fields).to_string())
}
