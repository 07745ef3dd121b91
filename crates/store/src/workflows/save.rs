//! Stores the rows that have changed, for many workflows with one statement each.

use leveret::workflow::{
    Role, StepOutcome,
    engine::{Changes, MemberEnd, MemberState, Status, StepPhase, StepState, Waiting, WorkflowState},
};
use leveret_sql::{
    Result,
    db::{Arg, Sql, TimedConnection, chunks},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    apply::{JobEnd, Work},
    definition::{NewStep, insert_steps},
    json_rows::{number, rows, table, text},
    row::{end_parts, phase_name, role_number},
};

/// Returns a value as JSON. The types of this module always serialise.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The status, what the workflow waits for, and whether it has ended.
pub(super) fn status_columns(state: &WorkflowState) -> (&'static str, Option<&'static str>, bool) {
    let status = state.status();
    let waiting_for = match &status {
        Status::Waiting(Waiting::Operator) => Some("operator"),
        Status::Waiting(Waiting::Pause) => Some("pause"),
        Status::Waiting(Waiting::Queue(_)) => Some("queue"),
        _ => None,
    };
    (status.name(), waiting_for, status.is_end())
}

/// The columns of a step's row that the engine does not keep.
pub(super) struct StepTimes {
    pub(super) compensable: Option<u64>,
    pub(super) is_published: bool,
    pub(super) is_ended: bool,
}

impl StepTimes {
    pub(super) fn of(state: &StepState) -> Self {
        let is_compensable = state.undo == leveret::workflow::engine::Undo::Ready && state.completed > 0;
        Self {
            compensable: is_compensable.then_some(state.last_success),
            is_published: !matches!(state.phase, StepPhase::Blocked | StepPhase::Held),
            is_ended: matches!(state.phase, StepPhase::Ended | StepPhase::Failed),
        }
    }
}

/// Stores the changes of all workflows since the last call.
pub(super) async fn save(tx: &mut TimedConnection, works: &mut [Work], now: u64) -> Result<()> {
    let (mut of_workflows, mut of_steps, mut of_jobs) = (Vec::new(), Vec::new(), Vec::new());
    for work in works {
        let Changes { workflow, steps, members, added } = work.snapshot.take_changes();
        add_steps(tx, work, &steps, &added, now).await?;
        let conflicts = std::mem::take(&mut work.conflicts);
        if workflow.is_some() || conflicts > 0 {
            of_workflows.push(workflow_row(work, conflicts));
        }
        let old = steps.iter().filter(|step| !added.iter().any(|(name, _)| *name == step.name));
        of_steps.extend(old.filter_map(|step| Some(step_row(work.key, *work.positions.get(&step.name)?, step))));
        for (step, member, state) in members {
            let end = work.ends.remove(&(step.clone(), Role::Step, member));
            // A retry or a skip by an operator has no report of an end.
            let end = end.unwrap_or_else(|| JobEnd { ended_at: now, ..JobEnd::default() });
            if let Some(position) = work.positions.get(&step) {
                of_jobs.push(job_row((work.key, *position, Role::Step, member), &state, &end));
            }
        }
        // The remaining ends are of compensations and of jobs of `on_failure`.
        for ((step, role, _), end) in std::mem::take(&mut work.ends) {
            let position = if role == Role::OnFailure { Some(-1) } else { work.positions.get(&step).copied() };
            if let (Some(position), Some(state)) = (position, undo_state(&end)) {
                of_jobs.push(job_row((work.key, position, role, 0), &state, &end));
            }
        }
    }
    update_workflows(tx, &of_workflows, now).await?;
    update_steps(tx, &of_steps, now).await?;
    upsert_jobs(tx, &of_jobs).await
}

async fn add_steps(
    tx: &mut TimedConnection,
    work: &mut Work,
    states: &[StepState],
    added: &[(String, leveret::workflow::Step)],
    now: u64,
) -> Result<()> {
    if added.is_empty() {
        return Ok(());
    }
    // Counted under the lock of the workflow: another server may just have added steps.
    let mut next = match work.next_position {
        Some(next) => next,
        None => {
            Sql::new("SELECT count(*) FROM leveret_workflow_steps WHERE workflow = $1").arg(work.key).one(tx).await?
        }
    };
    let mut new = Vec::with_capacity(added.len());
    for (name, step) in added {
        let position = next;
        next += 1;
        work.positions.insert(name.clone(), position);
        if let Some(state) = states.iter().find(|state| state.name == *name) {
            new.push(NewStep { workflow: work.key, position, step, state });
        }
    }
    insert_steps(tx, &new, now).await?;
    work.next_position = Some(next);
    Ok(())
}

fn workflow_row(work: &Work, conflicts: u32) -> Value {
    let state = work.snapshot.workflow();
    let (status, waiting_for, is_ended) = status_columns(state);
    json!([work.key, to_json(state), status, waiting_for, is_ended.then_some(1), conflicts])
}

async fn update_workflows(tx: &mut TimedConnection, changed: &[Value], now: u64) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let text = |column| text(dialect, column);
    let sql = Sql::new(format!(
        "UPDATE leveret_workflows AS w SET state = {}, status = {}, waiting_for = {}, updated_at = $2,
             ended_at = CASE WHEN {} = 1 THEN coalesce(w.ended_at, $2) END, conflicts = w.conflicts + {}
         FROM {} WHERE w.key = {}",
        text(1),
        text(2),
        text(3),
        number(dialect, 4),
        number(dialect, 5),
        table(dialect),
        number(dialect, 0)
    ));
    sql.arg(rows(changed)).arg(now).execute(tx).await.map(drop)
}

fn step_row(workflow: i64, position: i64, state: &StepState) -> Value {
    let times = StepTimes::of(state);
    let flag = |is_set: bool| is_set.then_some(1);
    json!([
        workflow,
        position,
        to_json(state),
        phase_name(state.phase),
        times.compensable,
        flag(times.is_published),
        flag(times.is_ended),
    ])
}

async fn update_steps(tx: &mut TimedConnection, changed: &[Value], now: u64) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let dialect = tx.dialect();
    let number = |column| number(dialect, column);
    let sql = Sql::new(format!(
        "UPDATE leveret_workflow_steps AS s SET state = {}, phase = {}, compensable = {},
             published_at = CASE WHEN {} = 1 THEN coalesce(s.published_at, $2) END,
             ended_at = CASE WHEN {} = 1 THEN coalesce(s.ended_at, $2) END
         FROM {} WHERE s.workflow = {} AND s.position = {}",
        text(dialect, 2),
        text(dialect, 3),
        number(4),
        number(5),
        number(6),
        table(dialect),
        number(0),
        number(1)
    ));
    sql.arg(rows(changed)).arg(now).execute(tx).await.map(drop)
}

/// The state of a compensation or of the job of `on_failure`, by the report of its end.
fn undo_state(end: &JobEnd) -> Option<MemberState> {
    let outcome = match end.outcome.as_ref()? {
        StepOutcome::Completed { .. } => MemberEnd::Completed,
        StepOutcome::Failed { kind, error } => MemberEnd::Failed { kind: kind.clone(), error: error.clone() },
        StepOutcome::Cancelled => MemberEnd::Cancelled,
    };
    Some(MemberState { life: end.life, end: Some(outcome), replayed_at: 0 })
}

fn job_row((workflow, step, role, member): (i64, i64, Role, u32), state: &MemberState, end: &JobEnd) -> [Arg; 15] {
    let (outcome, kind, error) = end_parts(state.end.as_ref());
    [
        workflow.into(),
        step.into(),
        role_number(role).into(),
        member.into(),
        state.life.into(),
        outcome.into(),
        kind.into(),
        error.into(),
        state.replayed_at.into(),
        end.attempt.into(),
        end.started_at.into(),
        outcome.map(|_| end.ended_at).into(),
        end.worker.as_deref().into(),
        end.result.as_deref().into(),
        end.too_large.into(),
    ]
}

async fn upsert_jobs(tx: &mut TimedConnection, jobs: &[[Arg; 15]]) -> Result<()> {
    const COLUMNS: [&str; 15] = [
        "workflow",
        "step",
        "role",
        "member",
        "life",
        "outcome",
        "error_kind",
        "error",
        "replayed_at",
        "attempt",
        "started_at",
        "ended_at",
        "worker",
        "result",
        "too_large",
    ];
    let updates: Vec<_> = COLUMNS[4..].iter().map(|column| format!("{column} = excluded.{column}")).collect();
    for chunk in chunks(jobs) {
        let mut sql = Sql::new(format!("INSERT INTO leveret_workflow_jobs ({}) VALUES ", COLUMNS.join(", ")));
        sql.values(chunk.iter().cloned());
        sql.push(&format!(" ON CONFLICT (workflow, step, role, member) DO UPDATE SET {}", updates.join(", ")));
        sql.execute(tx).await?;
    }
    Ok(())
}
