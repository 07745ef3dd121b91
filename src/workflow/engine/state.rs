//! The state of a workflow, of each step and of each job, in rows that a store keeps one by one.

use serde::{Deserialize, Serialize};

use crate::{
    message::step::{Role, StepRef},
    workflow::definition::{IfFailed, Step},
};

/// The state of a whole workflow.
///
/// ```
/// use leveret::workflow::engine::{Status, Waiting};
///
/// assert!(Status::Completed.is_end() && !Status::Waiting(Waiting::Pause).is_end());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// No step has started.
    Pending,
    /// Steps run, or wait for steps that run.
    Running,
    /// The workflow waits for a queue, for an operator or for the end of a pause.
    Waiting(Waiting),
    /// All steps have ended, each with success or skipped.
    Completed,
    /// A step has failed, or the deadline has passed. The steps that had succeeded are compensated.
    Failed,
    /// The workflow was cancelled. The steps that had succeeded are compensated.
    Cancelled,
}

/// The thing that a workflow waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// The queue of this name does not exist, or has no consumer. The engine does not know queues: a server sets this.
    Queue(String),
    /// A step or a compensation has failed, and an operator has to retry or skip it.
    Operator,
    /// The workflow is paused.
    Pause,
}

impl Status {
    /// Returns whether nothing follows, unless an operator retries a failed step.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Returns the name of the status, without the reason of a wait.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Waiting(_) => "Waiting",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// The part of its life that a workflow is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Steps start as soon as they can.
    Running,
    /// The workflow starts no further step and waits for the running ones. Then it compensates the steps that have
    /// succeeded.
    Stopping,
    /// Compensations run, and then the job of [`on_failure`](crate::workflow::Workflow::on_failure).
    Compensating,
    /// Nothing runs.
    Ended,
}

/// The way in which a workflow ends that does not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// A step has failed. An operator can retry it, until a compensation has started.
    Failed,
    /// The workflow has failed in a way that a retry does not change, such as a deadline.
    FailedForGood,
    /// The workflow was cancelled.
    Cancelled,
}

/// The failure of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The id of the job, or the workflow's own id.
    pub of: String,
    /// The class of the error, as [`ErrorKind`](crate::ErrorKind) names it; `cancelled`, `deadline` or `add_steps`.
    pub kind: String,
    /// The error and its sources.
    pub error: String,
}

/// The state of a compensation, or of the job of [`on_failure`](crate::workflow::Workflow::on_failure).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// The definition has no such job.
    #[default]
    Absent,
    /// It has not run.
    Ready,
    /// It is published, and its end is not known.
    Running,
    /// It has succeeded.
    Done,
    /// It has failed. The workflow shows an alarm until an operator retries or skips the job.
    Dead,
    /// An operator has skipped it.
    Skipped,
}

/// The row of a workflow. It counts steps and jobs, so that the engine need not load all their rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowState {
    /// The workflow's id.
    pub id: String,
    /// The random origin of the workflow. The engine refuses the end of a step with another origin.
    pub origin: String,
    /// The part of its life that it is in.
    pub phase: Phase,
    /// True if nothing starts until it is resumed.
    pub paused: bool,
    /// The way in which it ends, if it does not complete.
    pub stop: Option<Stop>,
    /// The reason for which it does not complete.
    pub cause: Option<Failure>,
    /// Steps that have not ended well.
    pub unfinished: u64,
    /// Published jobs whose end is not known.
    pub running: u64,
    /// Jobs that wait for an operator, in steps of [`IfFailed::Wait`].
    pub waiting: u64,
    /// Failed jobs, in steps of [`IfFailed::Fail`].
    pub failed: u64,
    /// Steps whose predecessors have ended, and that do not start because the workflow is paused or stops.
    pub held: u64,
    /// Steps that have to be compensated, if the workflow does not complete.
    pub compensable: u64,
    /// True if any step has a compensation.
    pub has_compensations: bool,
    /// True once a compensation or the job of `on_failure` has been published.
    pub is_undone: bool,
    /// The step whose compensation runs or is dead.
    pub undoing: Option<String>,
    /// The job of [`on_failure`](crate::workflow::Workflow::on_failure).
    pub on_failure: Undo,
    /// The life of that job.
    pub on_failure_life: u32,
    /// The time of the last replay of the job that undoes, in milliseconds since the epoch.
    pub undo_replayed_at: u64,
    /// The failure of a compensation or of the job of `on_failure`.
    pub alarm: Option<Failure>,
    /// The number of the next success of a job; compensations run in the reverse order of these numbers.
    pub next_success: u64,
}

/// The row of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// The step's name.
    pub name: String,
    /// The names of its direct predecessors.
    pub after: Vec<String>,
    /// The names of its direct successors.
    pub successors: Vec<String>,
    /// Direct predecessors that have not ended well.
    pub blockers: u32,
    /// True for a group.
    pub is_group: bool,
    /// The number of its jobs.
    pub size: u32,
    /// The effect of its failure.
    pub if_failed: IfFailed,
    /// The part of its life that it is in.
    pub phase: StepPhase,
    /// Jobs that have succeeded.
    pub completed: u32,
    /// Jobs that have failed. They are waited for if the step is of [`IfFailed::Wait`].
    pub failed: u32,
    /// Jobs that an operator has skipped.
    pub skipped: u32,
    /// Jobs that were cancelled with the workflow.
    pub cancelled: u32,
    /// The number of its last success ([`WorkflowState::next_success`]).
    pub last_success: u64,
    /// Its compensation.
    pub undo: Undo,
    /// The life of its compensation.
    pub undo_life: u32,
}

/// The part of its life that a step is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepPhase {
    /// It waits for its predecessors.
    Blocked,
    /// It could start, but the workflow is paused or stops.
    Held,
    /// Its jobs are published.
    Running,
    /// Its jobs have ended, and its successors go on.
    Ended,
    /// All jobs have ended, and at least one has failed or was cancelled. The successors do not start.
    Failed,
}

/// The row of a job: a step's only job, or a member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// The life that is published, or will be.
    pub life: u32,
    /// The end of that life.
    pub end: Option<MemberEnd>,
    /// The time of the last replay whose end was reported, in milliseconds since the epoch.
    pub replayed_at: u64,
}

impl Default for MemberState {
    /// Returns the row of a job whose step has not ended.
    fn default() -> Self {
        Self { life: 1, end: None, replayed_at: 0 }
    }
}

/// The end of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberEnd {
    /// It has succeeded. Its result is in the report of its end.
    Completed,
    /// It has failed.
    Failed {
        /// The class of the error.
        kind: String,
        /// The error and its sources.
        error: String,
    },
    /// An operator has skipped it.
    Skipped,
    /// It was cancelled with the workflow.
    Cancelled,
}

impl WorkflowState {
    /// Returns true if failed jobs can no longer be retried, replayed or skipped: a compensation has started, the
    /// workflow was cancelled, or it has failed for good.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.is_undone || self.phase == Phase::Compensating || !matches!(self.stop, None | Some(Stop::Failed))
    }

    /// Returns the status as the engine knows it. It is never [`Status::Pending`] or [`Waiting::Queue`], which only a
    /// server knows.
    #[must_use]
    pub fn status(&self) -> Status {
        match (self.phase, self.stop) {
            (Phase::Ended, None) => Status::Completed,
            (Phase::Ended, Some(Stop::Cancelled)) => Status::Cancelled,
            (Phase::Ended, Some(Stop::Failed | Stop::FailedForGood)) => Status::Failed,
            _ if self.alarm.is_some() => Status::Waiting(Waiting::Operator),
            _ if self.paused => Status::Waiting(Waiting::Pause),
            (Phase::Running, _) if self.waiting > 0 => Status::Waiting(Waiting::Operator),
            _ => Status::Running,
        }
    }
}

impl StepState {
    pub(super) fn new(name: &str, step: &Step) -> Self {
        let size = step.group_size().map_or(1, |size| u32::try_from(size).unwrap_or(u32::MAX));
        Self {
            name: name.to_owned(),
            after: step.after.clone(),
            successors: Vec::new(),
            blockers: u32::try_from(step.after.len()).unwrap_or(u32::MAX),
            is_group: step.group_size().is_some(),
            size,
            if_failed: step.if_failed,
            phase: StepPhase::Blocked,
            completed: 0,
            failed: 0,
            skipped: 0,
            cancelled: 0,
            last_success: 0,
            undo: if step.compensate.is_some() { Undo::Ready } else { Undo::Absent },
            undo_life: 1,
        }
    }

    /// Returns the address of one of the step's jobs; `member` is 0 unless the step is a group.
    #[must_use]
    pub fn job(&self, workflow: &str, member: u32, life: u32) -> StepRef {
        let member = self.is_group.then_some(member);
        StepRef { workflow: workflow.to_owned(), step: self.name.clone(), member, role: Role::Step, life }
    }

    /// Returns whether all its jobs have ended in a way that lets the successors go on.
    pub(super) fn has_ended_well(&self) -> bool {
        let well = self.completed + self.skipped;
        well + if self.if_failed == IfFailed::Skip { self.failed } else { 0 } == self.size
    }

    pub(super) fn has_ended(&self) -> bool {
        let waiting = if self.if_failed == IfFailed::Wait { self.failed } else { 0 };
        self.completed + self.failed + self.skipped + self.cancelled - waiting == self.size
    }

    /// Returns whether the workflow went on without the step: for a step that is no group, its successors get no result.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        self.phase == StepPhase::Ended && !self.is_group && self.completed == 0
    }

    /// Returns whether it has to be compensated if the workflow does not complete.
    pub(super) fn is_compensable(&self) -> bool {
        self.undo == Undo::Ready && self.completed > 0
    }
}
