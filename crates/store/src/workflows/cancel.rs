//! Cancellation of jobs that are not published yet, such as those that wait for a queue. No worker will report their end.

use std::time::SystemTime;

use leveret::{
    time::at_unix_ms,
    workflow::{
        StepEnd, StepOutcome,
        engine::{Action, Input, StepState},
    },
};
use leveret_sql::{
    Result,
    db::{Sql, TimedConnection, number_list},
};

use super::{
    apply::{Work, WorkflowInput},
    row::json,
};

/// Ends the unpublished jobs of a workflow whose jobs are cancelled. Returns true if that leads to further inputs.
pub(super) async fn end_unpublished(tx: &mut TimedConnection, work: &mut Work, now: u64) -> Result<bool> {
    let is_cancelled = work.actions[work.seen_actions..].contains(&Action::CancelJobs);
    work.seen_actions = work.actions.len();
    if !is_cancelled {
        return Ok(false);
    }
    let text = "SELECT o.id, o.first, o.last, o.life, s.state FROM leveret_workflow_outbox AS o
                JOIN leveret_workflow_steps AS s ON s.workflow = o.workflow AND s.position = o.step
                WHERE o.workflow = $1 AND o.kind = 'step'";
    let rows = Sql::new(text).arg(work.key).rows(tx).await?;
    if rows.is_empty() {
        return Ok(false);
    }
    let mut messages = Vec::with_capacity(rows.len());
    for row in &rows {
        messages.push(row.try_get::<i64>("id")?);
        let (first, last, life): (u32, u32, u32) = (row.number("first")?, row.number("last")?, row.number("life")?);
        let step: StepState = json(row, "state")?;
        for member in first..last {
            let input = Input::End(cancelled(work, &step, member, life, at_unix_ms(now)));
            let workflow = work.snapshot.workflow().id.clone();
            work.inputs.push_back((None, WorkflowInput::Input { workflow, input: Box::new(input) }));
        }
    }
    let text = format!("DELETE FROM leveret_workflow_outbox WHERE id IN {}", tx.dialect().numbers("$1"));
    Sql::new(text).arg(number_list(&messages)).execute(tx).await?;
    let text = "UPDATE leveret_workflows SET blocked_queue = NULL WHERE key = $1";
    Sql::new(text).arg(work.key).execute(tx).await?;
    Ok(true)
}

fn cancelled(work: &Work, step: &StepState, member: u32, life: u32, at: SystemTime) -> StepEnd {
    let workflow = work.snapshot.workflow();
    StepEnd {
        of: step.job(&workflow.id, member, life),
        origin: workflow.origin.clone(),
        attempt: 0,
        started_at: None,
        at,
        replayed_at: None,
        worker: None,
        outcome: StepOutcome::Cancelled,
    }
}
