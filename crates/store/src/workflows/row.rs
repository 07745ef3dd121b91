//! Rows of workflows, steps and jobs.

use std::collections::BTreeMap;

use leveret::workflow::{
    Role,
    engine::{MemberEnd, MemberState, Phase, Status, StepPhase, StepState, Waiting, WorkflowState},
};
use leveret_sql::db::{FromRow, Row};
use serde::de::DeserializeOwned;

/// A workflow. Times are in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredWorkflow {
    pub(super) key: i64,
    /// Its name.
    pub name: String,
    /// The texts that tools show with it.
    pub labels: BTreeMap<String, String>,
    /// The state that the engine keeps, with the id.
    pub state: WorkflowState,
    /// The queue that does not exist, while a job waits for it.
    pub blocked_queue: Option<String>,
    /// The number of other definitions under its id, which were refused.
    pub conflicts: u64,
    /// The time of its start.
    pub created_at: u64,
    /// The time of the last change of its state.
    pub updated_at: u64,
    /// The time at which its first job was published.
    pub started_at: Option<u64>,
    /// The time of its end.
    pub ended_at: Option<u64>,
    /// The time at which it fails if it has not ended.
    pub deadline_at: Option<u64>,
}

impl StoredWorkflow {
    /// Returns the status of the engine, or one that only a server knows: no job is published yet, or a job waits for a
    /// queue.
    #[must_use]
    pub fn status(&self) -> Status {
        match (self.state.status(), &self.blocked_queue, self.started_at) {
            (Status::Running, Some(queue), _) => Status::Waiting(Waiting::Queue(queue.clone())),
            (Status::Running, None, None) if self.state.phase == Phase::Running => Status::Pending,
            (status, ..) => status,
        }
    }
}

/// A step of a workflow. Times are in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredStep {
    /// Its place in the order of definition, from 0.
    pub position: u32,
    /// The job's name.
    pub job: String,
    /// The job queue, if the definition names it.
    pub queue: Option<String>,
    /// The state that the engine keeps, with the name.
    pub state: StepState,
    /// The time at which the server decided to publish its jobs.
    pub published_at: Option<u64>,
    /// The time of its end.
    pub ended_at: Option<u64>,
    /// The queue that does not exist, while a job of the step waits for it.
    pub blocked_queue: Option<String>,
}

/// A job of a step, with its end if it has one. Times are in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredWorkflowJob {
    /// The place of the step in the order of definition; -1 for [`Role::OnFailure`].
    pub step: i64,
    /// The role of the job in the workflow.
    pub role: Role,
    /// Its position in a group, from 0.
    pub member: u32,
    /// The state that the engine keeps.
    pub state: MemberState,
    /// The attempt that ended it, from 1; 0 if it has not ended.
    pub attempt: u32,
    /// The start of that attempt.
    pub started_at: Option<u64>,
    /// The time of its end.
    pub ended_at: Option<u64>,
    /// The worker that ended it: host and process id.
    pub worker: Option<String>,
    /// Its result, as JSON.
    pub result: Option<String>,
    /// The size in bytes of a result that was too large to be stored.
    pub too_large: Option<u64>,
}

pub(super) fn role_number(role: Role) -> i64 {
    match role {
        Role::Step => 0,
        Role::Compensation => 1,
        Role::OnFailure => 2,
    }
}

fn role_of(number: i64) -> Role {
    match number {
        1 => Role::Compensation,
        2 => Role::OnFailure,
        _ => Role::Step,
    }
}

pub(super) fn phase_name(phase: StepPhase) -> &'static str {
    match phase {
        StepPhase::Blocked => "blocked",
        StepPhase::Held => "held",
        StepPhase::Running => "running",
        StepPhase::Ended => "ended",
        StepPhase::Failed => "failed",
    }
}

/// The outcome, the class of the error, and the error.
pub(super) fn end_parts(end: Option<&MemberEnd>) -> (Option<&'static str>, Option<&str>, Option<&str>) {
    match end {
        None => (None, None, None),
        Some(MemberEnd::Completed) => (Some("completed"), None, None),
        Some(MemberEnd::Failed { kind, error }) => (Some("failed"), Some(kind), Some(error)),
        Some(MemberEnd::Skipped) => (Some("skipped"), None, None),
        Some(MemberEnd::Cancelled) => (Some("cancelled"), None, None),
    }
}

/// Reads JSON that this crate has written.
pub(super) fn json<T: DeserializeOwned>(row: &Row, column: &str) -> sqlx::Result<T> {
    serde_json::from_str(row.try_get(column)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// The row of a job as the engine knows it.
pub(super) fn member_state(row: &Row) -> sqlx::Result<MemberState> {
    let outcome: Option<&str> = row.try_get("outcome")?;
    let text = |column| Ok::<_, sqlx::Error>(row.try_get::<Option<String>>(column)?.unwrap_or_default());
    let end = match outcome {
        None => None,
        Some("failed") => Some(MemberEnd::Failed { kind: text("error_kind")?, error: text("error")? }),
        Some("skipped") => Some(MemberEnd::Skipped),
        Some("cancelled") => Some(MemberEnd::Cancelled),
        Some(_) => Some(MemberEnd::Completed),
    };
    Ok(MemberState { life: row.number("life")?, end, replayed_at: row.number("replayed_at")? })
}

/// The columns of a [`StoredWorkflow`]. The payload of its `on_failure` may have megabytes.
pub(super) const WORKFLOW_COLUMNS: &str = "key, name, labels, state, blocked_queue, conflicts, created_at, updated_at, \
                                           started_at, ended_at, deadline_at";
/// The columns of a [`StoredStep`] `s` without its blocked queue. The payload of its compensation may have megabytes.
pub(super) const STEP_COLUMNS: &str = "s.position, s.spec, s.state, s.published_at, s.ended_at";
/// The columns of a job `j` as the engine knows it. Its result may have 64 KiB.
pub(super) const MEMBER_COLUMNS: &str =
    "j.workflow, j.step, j.member, j.life, j.outcome, j.error_kind, j.error, j.replayed_at";

impl FromRow for StoredWorkflow {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            key: row.try_get("key")?,
            name: row.try_get("name")?,
            labels: json(row, "labels")?,
            state: json(row, "state")?,
            blocked_queue: row.try_get("blocked_queue")?,
            conflicts: row.number("conflicts")?,
            created_at: row.number("created_at")?,
            updated_at: row.number("updated_at")?,
            started_at: row.maybe_number("started_at")?,
            ended_at: row.maybe_number("ended_at")?,
            deadline_at: row.maybe_number("deadline_at")?,
        })
    }
}

/// The part of a job's specification that is shown.
#[derive(serde::Deserialize)]
struct ShownSpec {
    job: String,
    queue: Option<String>,
}

impl FromRow for StoredStep {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let ShownSpec { job, queue } = json(row, "spec")?;
        Ok(Self {
            position: row.number("position")?,
            job,
            queue,
            state: json(row, "state")?,
            published_at: row.maybe_number("published_at")?,
            ended_at: row.maybe_number("ended_at")?,
            blocked_queue: row.try_get("blocked_queue")?,
        })
    }
}

impl FromRow for StoredWorkflowJob {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            step: row.try_get("step")?,
            role: role_of(row.try_get("role")?),
            member: row.number("member")?,
            state: member_state(row)?,
            attempt: row.number("attempt")?,
            started_at: row.maybe_number("started_at")?,
            ended_at: row.maybe_number("ended_at")?,
            worker: row.try_get("worker")?,
            result: row.try_get("result")?,
            too_large: row.maybe_number("too_large")?,
        })
    }
}
