//! Workflows in responses.

use std::collections::BTreeMap;

use leveret::workflow::{
    StepRef,
    engine::{Failure, MemberEnd, Status, StepPhase, Undo, Waiting},
};
use leveret_store::{StoredStep, StoredWorkflow, StoredWorkflowJob, WorkflowSums, time::to_rfc3339};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::status::{StepStatus, WorkflowStatus};

/// The most jobs of a group whose ids a response has.
const MOST_IDS: u32 = 100;

/// Numbers of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkflowProgress {
    /// All jobs, as far as the steps are known.
    pub total: u64,
    /// Jobs that have succeeded.
    pub done: u64,
    /// Jobs that have failed.
    pub failed: u64,
    /// Jobs that are in their queue or run.
    pub running: u64,
    /// Jobs whose step has not started.
    pub waiting: u64,
    /// Jobs that were skipped or cancelled.
    pub skipped: u64,
}

impl WorkflowProgress {
    pub(super) fn of(workflow: &StoredWorkflow, sums: WorkflowSums) -> Self {
        // Jobs that have not run by the end of the workflow never run.
        let has_ended = workflow.status().is_end();
        let open = |jobs: u64| if has_ended { 0 } else { jobs };
        Self {
            total: sums.total,
            done: sums.completed,
            failed: sums.failed,
            running: open(sums.running),
            waiting: open(sums.waiting),
            skipped: sums.skipped,
        }
    }
}

/// A workflow. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Workflow)]
pub struct WorkflowView {
    /// The workflow's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: WorkflowStatus,
    /// The cause of the wait: `queue`, `operator` or `pause`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// The queue that it waits for, which does not exist or has no consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The id of the job that has failed, or the workflow's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The class of that error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
    /// The error because of which it has not completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The texts that were given at the start.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub labels: BTreeMap<String, String>,
    /// Other definitions under this id, which were refused.
    #[serde(skip_serializing_if = "is_zero")]
    pub conflicts: u64,
    /// The time of its start.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// The time at which its first job was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// The time of its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
    /// The time of its last change.
    #[schema(format = DateTime)]
    pub updated_at: String,
    /// The time at which it fails if it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub deadline: Option<String>,
    /// The numbers of its jobs. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<WorkflowProgress>,
    /// Its steps by name, at most 1000. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::HashMap<String, StepView>>)]
    pub steps: Option<Steps>,
}

/// Steps in the order of their definition, as an object by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps(pub Vec<(String, StepView)>);

impl Serialize for Steps {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, step)| (name, step)))
    }
}

/// A step of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = WorkflowStep)]
pub struct StepView {
    /// The step's status.
    pub status: StepStatus,
    /// The job's name.
    pub job: String,
    /// The job queue, if the definition names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The steps that precede it.
    pub after: Vec<String>,
    /// True for a group.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub group: bool,
    /// The numbers of its jobs.
    pub progress: WorkflowProgress,
    /// The ids of its jobs: of a group, the first 100.
    pub task_ids: Vec<String>,
    /// The queue that its jobs wait for, which does not exist or has no consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// The time at which it was decided to publish its jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub published_at: Option<String>,
    /// The start of the attempt that ended its job. Not of a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// The time of its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
    /// The attempt that ended its job, from 1. Not of a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The class of its job's error. Not of a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
    /// The error of its job. Not of a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The result of its job. Not of a group, and of all steps only the first MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<ResultJson>,
    /// The size in bytes of a result that was too large to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_too_large: Option<u64>,
    /// The job that compensates it: `ready`, `running`, `done`, `dead` or `skipped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compensation: Option<String>,
}

/// The result of a job, as its handler wrote it: numbers have all their digits, and repeated keys are repeated.
///
/// ```
/// # use leveret_serve::workflows::StepView;
/// fn receipt(step: &StepView) -> Option<u64> {
///     let result = step.result.as_ref()?;
///     serde_json::from_str::<serde_json::Value>(result.get()).ok()?["receipt"].as_u64()
/// }
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct ResultJson(Box<RawValue>);

impl ResultJson {
    /// Its JSON.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for ResultJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

/// The end of one job of a step.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct JobResult {
    /// The job's position in its group, from 0.
    pub member: u32,
    /// The job's id.
    pub task_id: String,
    /// Completed, Failed, Skipped or Cancelled; Pending for a job that is retried.
    pub status: StepStatus,
    /// The time of its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
    /// The class of its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
    /// Its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<ResultJson>,
    /// The size in bytes of a result that was too large to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_too_large: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl WorkflowView {
    pub(super) fn new(workflow: &StoredWorkflow) -> Self {
        let status = workflow.status();
        let (waiting_for, queue) = match &status {
            Status::Waiting(Waiting::Queue(queue)) => (Some("queue"), Some(queue.clone())),
            Status::Waiting(Waiting::Operator) => (Some("operator"), None),
            Status::Waiting(Waiting::Pause) => (Some("pause"), None),
            _ => (None, None),
        };
        let failure: Option<&Failure> = workflow.state.alarm.as_ref().or(workflow.state.cause.as_ref());
        Self {
            id: workflow.state.id.clone(),
            name: workflow.name.clone(),
            status: WorkflowStatus::of(&status),
            waiting_for: waiting_for.map(str::to_owned),
            queue,
            failed: failure.map(|failure| failure.of.clone()),
            error_kind: failure.map(|failure| failure.kind.clone()),
            error: failure.map(|failure| failure.error.clone()),
            labels: workflow.labels.clone(),
            conflicts: workflow.conflicts,
            created_at: to_rfc3339(workflow.created_at),
            started_at: workflow.started_at.map(to_rfc3339),
            finished_at: workflow.ended_at.map(to_rfc3339),
            updated_at: to_rfc3339(workflow.updated_at),
            deadline: workflow.deadline_at.map(to_rfc3339),
            progress: None,
            steps: None,
        }
    }
}

impl StepView {
    pub(super) fn new(
        workflow: &StoredWorkflow,
        step: StoredStep,
        job: Option<&StoredWorkflowJob>,
        is_started: bool,
    ) -> Self {
        let state = &step.state;
        let (size, id) = (u64::from(state.size), &workflow.state.id);
        let ended = u64::from(state.completed) + u64::from(state.failed) + u64::from(state.skipped + state.cancelled);
        let is_published = !matches!(state.phase, StepPhase::Blocked | StepPhase::Held);
        let open = size.saturating_sub(ended);
        let has_ended = workflow.status().is_end();
        let progress = WorkflowProgress {
            total: size,
            done: state.completed.into(),
            failed: state.failed.into(),
            running: if is_published && !has_ended { open } else { 0 },
            waiting: if is_published || has_ended { 0 } else { open },
            skipped: (state.skipped + state.cancelled).into(),
        };
        let job = job.filter(|_| !state.is_group);
        let failure = job.and_then(failure);
        let is_known = |member: &u32| *member < state.size;
        Self {
            status: status(workflow, &step, is_started),
            after: state.after.clone(),
            group: state.is_group,
            progress,
            task_ids: (0..MOST_IDS).filter(is_known).map(|member| state.job(id, member, 1).to_string()).collect(),
            // The store may have the missing queue for a moment longer than a job that waits for it.
            waiting_for: step.blocked_queue.clone().filter(|_| open > 0),
            published_at: step.published_at.map(to_rfc3339),
            started_at: job.and_then(|job| job.started_at).map(to_rfc3339),
            finished_at: step.ended_at.map(to_rfc3339),
            attempt: job.map(|job| job.attempt).filter(|attempt| *attempt > 0),
            error_kind: failure.map(|(kind, _)| kind.to_owned()),
            error: failure.map(|(_, error)| error.to_owned()),
            result: job.and_then(result),
            result_too_large: job.and_then(|job| job.too_large),
            compensation: compensation(state.undo).map(str::to_owned),
            job: step.job,
            queue: step.queue,
        }
    }
}

fn status(workflow: &StoredWorkflow, step: &StoredStep, is_started: bool) -> StepStatus {
    let (state, has_ended) = (&step.state, workflow.status().is_end());
    match state.phase {
        StepPhase::Blocked | StepPhase::Held if has_ended => StepStatus::Cancelled,
        StepPhase::Blocked | StepPhase::Held => StepStatus::Waiting,
        StepPhase::Running if has_ended => StepStatus::Cancelled,
        StepPhase::Running if is_started || state.completed + state.failed > 0 => StepStatus::Running,
        StepPhase::Running => StepStatus::Pending,
        StepPhase::Ended if state.is_skipped() => StepStatus::Skipped,
        StepPhase::Ended => StepStatus::Completed,
        StepPhase::Failed if state.failed == 0 => StepStatus::Cancelled,
        StepPhase::Failed => StepStatus::Failed,
    }
}

fn compensation(undo: Undo) -> Option<&'static str> {
    match undo {
        Undo::Absent => None,
        Undo::Ready => Some("ready"),
        Undo::Running => Some("running"),
        Undo::Done => Some("done"),
        Undo::Dead => Some("dead"),
        Undo::Skipped => Some("skipped"),
    }
}

fn failure(job: &StoredWorkflowJob) -> Option<(&str, &str)> {
    match job.state.end.as_ref()? {
        MemberEnd::Failed { kind, error } => Some((kind, error)),
        _ => None,
    }
}

fn result(job: &StoredWorkflowJob) -> Option<ResultJson> {
    RawValue::from_string(job.result.clone()?).ok().map(ResultJson)
}

impl JobResult {
    pub(super) fn new(workflow: &str, step: &StoredStep, job: &StoredWorkflowJob) -> Self {
        let of: StepRef = step.state.job(workflow, job.member, job.state.life);
        Self {
            member: job.member,
            task_id: of.to_string(),
            status: match &job.state.end {
                None => StepStatus::Pending,
                Some(MemberEnd::Completed) => StepStatus::Completed,
                Some(MemberEnd::Failed { .. }) => StepStatus::Failed,
                Some(MemberEnd::Skipped) => StepStatus::Skipped,
                Some(MemberEnd::Cancelled) => StepStatus::Cancelled,
            },
            finished_at: job.ended_at.map(to_rfc3339),
            error_kind: failure(job).map(|(kind, _)| kind.to_owned()),
            error: failure(job).map(|(_, error)| error.to_owned()),
            result: result(job),
            result_too_large: job.too_large,
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret::workflow::{Role, engine::MemberState};

    use super::*;

    #[test]
    fn a_result_is_shown_with_every_digit_and_every_key() {
        let json = r#"{"n":123456789012345678901234567890,"x":0.10000000000000000555,"n":1E400}"#;
        let job = StoredWorkflowJob {
            step: 0,
            role: Role::Step,
            member: 0,
            state: MemberState::default(),
            attempt: 1,
            started_at: None,
            ended_at: None,
            worker: None,
            result: Some(json.to_owned()),
            too_large: None,
        };
        assert_eq!(serde_json::to_string(&result(&job)).unwrap(), json);
    }
}
