//! Writes what events say: the jobs they move, and a line for each step.

use std::{borrow::Cow, collections::HashMap};

use leveret::event::{JobEvent, Step};
use serde_json::Value;

use super::{Job, Moved};
use crate::{
    Result, Store,
    lent::Lent,
    open::Area,
    sql::{Arg, Sql, chunks, text_list, without_nul},
    unique,
};

const COLUMNS: [&str; 26] = [
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
];

/// Copies of a job whose steps are remembered: the first, and the last.
const FIRST_HOPS: u32 = 50;
const LAST_HOPS: u32 = 50;

/// A line of the timeline, by what there is one of each.
type Lines<'a> = HashMap<(&'a str, u32, u32, &'static str), &'a JobEvent>;

impl Store {
    /// Takes in events, all or none, and tells which jobs they changed.
    ///
    /// Late, duplicate and shuffled events never move a job back: it ends where the same events in order would have
    /// brought it. An event of a job that was pruned makes it anew.
    ///
    /// See the [crate](crate) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database); nothing was written then.
    pub async fn record(&self, events: &[JobEvent]) -> Result<Vec<Moved>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let events = &*as_kept(events);
        let mut tx = self.write(Area::Status).await?;
        let ids = text_list(events.iter().map(|event| event.id.as_str()));
        let known = format!("SELECT * FROM leveret_jobs WHERE id IN {}", self.dialect.list("$1"));
        let known: Vec<Job> = Sql::new(known).arg(ids).all(&mut tx).await?;
        let known: HashMap<_, _> = known.iter().map(|job| (job.id.as_str(), job)).collect();
        let changed = fold(&known, events);
        for chunk in chunks(&changed) {
            upsert(chunk).execute(&mut tx).await?;
        }
        for chunk in chunks(&timeline(events)) {
            note(chunk).execute(&mut tx).await?;
        }
        self.thin_out(&mut tx, &changed).await?;
        unique::free_done(&mut tx, &changed, events, &self.dialect.list("$1")).await?;
        tx.commit().await?;
        Ok(changed.into_iter().map(|job| Moved { id: job.id, state: job.state }).collect())
    }
}

impl Store {
    /// Of jobs that come back again and again, such as one that snoozes every second for a day, the first copies and the
    /// last are remembered.
    async fn thin_out(&self, tx: &mut Lent, changed: &[Job]) -> Result<()> {
        let long = changed.iter().filter(|job| job.hop >= FIRST_HOPS + LAST_HOPS).map(|job| job.id.as_str());
        let long: Vec<_> = long.collect();
        if long.is_empty() {
            return Ok(());
        }
        let text = format!(
            "DELETE FROM leveret_job_steps WHERE id IN {} AND hop >= {FIRST_HOPS} AND hop <=
             (SELECT hop FROM leveret_jobs WHERE leveret_jobs.id = leveret_job_steps.id) - {LAST_HOPS}",
            self.dialect.list("$1")
        );
        Sql::new(text).arg(text_list(long)).execute(tx).await.map(drop)
    }
}

/// With ids as the database has them: what is told apart here must be two there as well.
fn as_kept(events: &[JobEvent]) -> Cow<'_, [JobEvent]> {
    if events.iter().all(|event| !event.id.contains('\0')) {
        return Cow::Borrowed(events);
    }
    let kept = |event: &JobEvent| JobEvent { id: without_nul(&event.id), ..event.clone() };
    events.iter().map(kept).collect()
}

/// The jobs that are no longer as they were, in the order in which they are first named.
fn fold(known: &HashMap<&str, &Job>, events: &[JobEvent]) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for event in events {
        let place = *places.entry(&event.id).or_insert_with(|| {
            jobs.push(known.get(event.id.as_str()).map_or_else(|| Job::new(event), |job| (*job).clone()));
            jobs.len() - 1
        });
        jobs[place].apply(event);
    }
    jobs.retain(|job| known.get(job.id.as_str()).is_none_or(|before| *before != job));
    jobs
}

fn upsert(jobs: &[Job]) -> Sql {
    let updates: Vec<_> = COLUMNS[1..].iter().map(|column| format!("{column} = excluded.{column}")).collect();
    let mut sql = Sql::new(format!("INSERT INTO leveret_jobs ({}) VALUES ", COLUMNS.join(", ")));
    sql.values(jobs.iter().map(row));
    sql.push(&format!(" ON CONFLICT (id) DO UPDATE SET {}", updates.join(", ")));
    sql
}

fn row(job: &Job) -> [Arg; COLUMNS.len()] {
    [
        job.id.as_str().into(),
        job.label.as_deref().into(),
        job.job.as_str().into(),
        job.queue.as_str().into(),
        job.priority.map(u64::from).into(),
        job.state.as_str().into(),
        job.attempt.into(),
        job.hop.into(),
        u32::from(job.place.rank).into(),
        job.place.moment.into(),
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
    ]
}

/// The first of each step; one that is told twice in a batch could not be written in one statement.
fn timeline(events: &[JobEvent]) -> Vec<&JobEvent> {
    let mut lines = Lines::new();
    for event in events.iter().filter(|event| !matches!(event.step, Step::Progress { .. })) {
        let first = lines.entry((&event.id, event.hop, event.attempt, event.step.name())).or_insert(event);
        if event.at < first.at {
            *first = event;
        }
    }
    lines.into_values().collect()
}

fn note(events: &[&JobEvent]) -> Sql {
    let mut sql = Sql::new("INSERT INTO leveret_job_steps (id, hop, attempt, step, at, worker, detail) VALUES ");
    sql.values(events.iter().map(|event| {
        [
            event.id.as_str().into(),
            event.hop.into(),
            event.attempt.into(),
            event.step.name().into(),
            event.at.into(),
            event.worker.as_deref().into(),
            Arg::Text(detail(&event.step)),
        ]
    }));
    sql.push(
        " ON CONFLICT (id, hop, attempt, step) DO UPDATE
         SET at = excluded.at, worker = excluded.worker, detail = excluded.detail
         WHERE excluded.at < leveret_job_steps.at",
    );
    sql
}

/// What a step says beside its name; a result stands with the job.
fn detail(step: &Step) -> Option<String> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(step) else { return None };
    fields.retain(|name, value| !["event", "result"].contains(&name.as_str()) && !value.is_null());
    (!fields.is_empty()).then(|| Value::Object(fields).to_string())
}
