//! The rows of a definition.

use std::{collections::BTreeMap, sync::Arc};

use leveret::{
    time::millis,
    workflow::{
        JobSpec, Step, Workflow,
        engine::{StepState, WorkflowState},
    },
};
use leveret_sql::{
    Result,
    db::{Arg, Sql, TimedConnection, chunks},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    row::phase_name,
    save::{StepTimes, status_columns, to_json},
};

/// The payloads in memory that wait for their statements.
const AT_ONCE: usize = 64;

/// A workflow to be started: checked, with its id.
///
/// ```
/// use leveret::{NewJob, workflow::Workflow};
/// use leveret_store::NewWorkflow;
///
/// let workflow = Workflow::new("order").id("order-17").step("charge", NewJob::raw("charge", "money", "{}"));
/// let new = NewWorkflow::new(workflow);
/// assert_eq!(new.id(), "order-17");
/// ```
#[derive(Clone, Debug)]
pub struct NewWorkflow {
    id: String,
    pub(super) origin: String,
    pub(super) digest: String,
    /// Shared by its clones, because it may have megabytes.
    pub(super) workflow: Arc<Workflow>,
}

impl NewWorkflow {
    /// Makes one of a workflow that was [checked](Workflow::check). Gives it an id if it has none.
    #[must_use]
    pub fn new(workflow: Workflow) -> Self {
        let id = workflow.workflow_id().map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned);
        let origin = uuid::Uuid::new_v4().simple().to_string();
        Self { digest: digest(&workflow), id, origin, workflow: Arc::new(workflow) }
    }

    /// The workflow's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Two definitions have one digest if they differ in whitespace and in the order of members alone. With a payload that is
/// JSON by its grammar alone, such as a number that no type holds, they must be the same text.
fn digest(workflow: &Workflow) -> String {
    let mut digest = Sha256::new();
    let text = to_json(&workflow.clone().id(""));
    match serde_json::from_str(&text) {
        Ok(value) => add(&value, &mut digest),
        Err(_) => digest.update(text),
    }
    leveret::text::hex(&digest.finalize()[..16])
}

fn add(value: &Value, digest: &mut Sha256) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            digest.update(b"{");
            for (name, value) in members {
                digest.update(Value::from(name.as_str()).to_string());
                add(value, digest);
            }
            digest.update(b"}");
        }
        Value::Array(items) => {
            digest.update(b"[");
            items.iter().for_each(|item| add(item, digest));
            digest.update(b"]");
        }
        other => {
            digest.update(other.to_string());
            digest.update(b",");
        }
    }
}

/// The specification of a step's jobs without their payload.
fn spec(step: &Step) -> String {
    let Ok(Value::Object(mut members)) = serde_json::to_value(step.sample()) else { return "{}".to_owned() };
    members.remove("payload");
    Value::Object(members).to_string()
}

/// Inserts new workflows, sorted by id, and returns the keys and ids of those that were not there.
pub(super) async fn insert_workflows(
    tx: &mut TimedConnection,
    new: &[(&NewWorkflow, &WorkflowState)],
    now: u64,
) -> Result<Vec<(i64, String)>> {
    let mut inserted = Vec::new();
    for chunk in chunks(new) {
        let mut sql = Sql::new(
            "INSERT INTO leveret_workflows (id, name, digest, labels, on_failure, track, state, status, waiting_for,
                                            conflicts, created_at, updated_at, ended_at, deadline_at, deadline_due)
             VALUES ",
        );
        sql.values(chunk.iter().map(|(new, state)| workflow_row(new, state, now)));
        sql.push(" ON CONFLICT (id) DO NOTHING RETURNING key, id");
        inserted.extend(sql.all::<(i64, String)>(tx).await?);
    }
    Ok(inserted)
}

fn workflow_row(new: &NewWorkflow, state: &WorkflowState, now: u64) -> [Arg; 15] {
    let workflow = &new.workflow;
    let labels: BTreeMap<_, _> = workflow.labels().collect();
    let (status, waiting_for, is_ended) = status_columns(state);
    let deadline = workflow.time_limit().map(|limit| now.saturating_add(millis(limit)));
    [
        new.id.as_str().into(),
        workflow.name().into(),
        new.digest.as_str().into(),
        to_json(&labels).as_str().into(),
        Arg::Text(workflow.failure_job().map(to_json)),
        u32::from(workflow.is_tracked()).into(),
        to_json(state).as_str().into(),
        status.into(),
        waiting_for.into(),
        0u32.into(),
        now.into(),
        now.into(),
        is_ended.then_some(now).into(),
        deadline.into(),
        deadline.into(),
    ]
}

/// A step to be inserted: the key of its workflow, its position, its definition and its state.
pub(super) struct NewStep<'a> {
    pub(super) workflow: i64,
    pub(super) position: i64,
    pub(super) step: &'a Step,
    pub(super) state: &'a StepState,
}

pub(super) async fn insert_steps(tx: &mut TimedConnection, new: &[NewStep<'_>], now: u64) -> Result<()> {
    for chunk in chunks(new) {
        let mut sql = Sql::new(
            "INSERT INTO leveret_workflow_steps (workflow, position, name, spec, compensation, state, phase, compensable,
                                                 published_at, ended_at) VALUES ",
        );
        sql.values(chunk.iter().map(|new| step_row(new, now)));
        sql.execute(tx).await?;
    }
    let payloads = new.iter().flat_map(|new| {
        let place = (new.workflow, new.position);
        new.step.jobs().enumerate().map(move |(member, job)| (place, member as u64, job))
    });
    let mut waiting = Vec::with_capacity(AT_ONCE);
    for payload in payloads {
        waiting.push(payload);
        if waiting.len() == AT_ONCE {
            insert_payloads(tx, &waiting).await?;
            waiting.clear();
        }
    }
    insert_payloads(tx, &waiting).await
}

async fn insert_payloads(tx: &mut TimedConnection, payloads: &[((i64, i64), u64, JobSpec)]) -> Result<()> {
    for chunk in chunks(payloads) {
        let mut sql = Sql::new("INSERT INTO leveret_workflow_payloads (workflow, step, member, payload) VALUES ");
        sql.values(chunk.iter().map(|((workflow, step), member, job)| {
            [(*workflow).into(), (*step).into(), (*member).into(), job.payload().into()]
        }));
        sql.execute(tx).await?;
    }
    Ok(())
}

fn step_row(new: &NewStep<'_>, now: u64) -> [Arg; 10] {
    let NewStep { workflow, position, step, state } = new;
    let times = StepTimes::of(state);
    [
        (*workflow).into(),
        (*position).into(),
        state.name.as_str().into(),
        spec(step).as_str().into(),
        Arg::Text(step.compensation().map(to_json)),
        to_json(state).as_str().into(),
        phase_name(state.phase).into(),
        times.compensable.into(),
        times.is_published.then_some(now).into(),
        times.is_ended.then_some(now).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_the_same_whatever_their_whitespace_their_order_and_their_id() {
        let digest = |json: &str| NewWorkflow::new(serde_json::from_str(json).unwrap()).digest;
        let one = digest(r#"{"name": "w", "steps": {"a": {"job": "j", "payload": {"x": 1, "y": [1, 12]}}}}"#);
        let same = r#"{"steps": {"a": {"payload": {"y":[1,12],"x":1}, "job": "j"}}, "id": "w-1", "name": "w"}"#;
        assert_eq!(digest(same), one);
        for other in [
            r#"{"name": "w", "steps": {"a": {"job": "j", "payload": {"x": 1, "y": [11, 2]}}}}"#,
            r#"{"name": "w", "steps": {"b": {"job": "j", "payload": {"x": 1, "y": [1, 12]}}}}"#,
            r#"{"name": "w", "steps": {"a": {"job": "j", "payload": {"x": "1", "y": [1, 12]}}}}"#,
        ] {
            assert_ne!(digest(other), one, "{other}");
        }
    }

    #[test]
    fn payloads_that_are_json_by_its_grammar_alone_have_digests_of_their_own() {
        let one = |payload: &str| {
            let json =
                format!(r#"{{"name": "w", "steps": {{"a": {{"job": "j", "queue": "q", "payload": {payload}}}}}}}"#);
            let workflow: Workflow = serde_json::from_str(&json).unwrap();
            let specs: Vec<_> = workflow.step_list().iter().map(|(_, step)| spec(step)).collect();
            assert_eq!(specs, [r#"{"job":"j","queue":"q"}"#]);
            NewWorkflow::new(workflow).digest
        };
        let payloads = [r#""\ud83d""#, "1e400", &format!("{}{}", "[".repeat(200), "]".repeat(200))].map(one);
        assert!(payloads[0] != payloads[1] && payloads[1] != payloads[2]);
        assert_eq!(one("1e400"), payloads[1]);
    }

    #[test]
    fn a_specification_has_the_options_of_the_job_and_no_payload() {
        let json = r#"{"name": "w", "steps": {
            "a": {"job": "j", "queue": "q", "priority": 7, "payload": {"x": 1}, "if_failed": "skip"},
            "b": {"job": "j", "each": [], "after": ["a"]}}}"#;
        let workflow: Workflow = serde_json::from_str(json).unwrap();
        let specs: Vec<_> = workflow.step_list().iter().map(|(_, step)| spec(step)).collect();
        assert_eq!(specs, [r#"{"job":"j","priority":7,"queue":"q"}"#, r#"{"job":"j"}"#]);
    }
}
