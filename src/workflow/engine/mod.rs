//! The workflow engine, a pure state machine. It applies an input, such as the end of a job, and returns the actions to
//! carry out. It uses no broker, store or clock.
//!
//! A store keeps rows: one of the workflow ([`WorkflowState`]), one for each step ([`StepState`]) and one for each job
//! ([`MemberState`]). For one [`Input`] the engine needs few of them: those of the step, of the one job that has ended, and
//! of the steps that come next. [`Snapshot::apply`] names the rows that it still needs ([`Load`]), so that a program loads
//! no more. What has changed is in [`Snapshot::take_changes`].
//!
//! ```
//! use leveret::{NewJob, workflow::{StepEnd, Workflow, engine::{Action, ApplyError, Input, Snapshot, Status}}};
//!
//! let job = || NewJob::raw("task", "tasks", "{}");
//! let workflow = Workflow::new("two").step("a", job()).step("b", job()).after("a");
//! let (mut all, actions) = Snapshot::begin(&workflow, "w-1", "6f1c");
//! assert_eq!(actions, [Action::Publish { step: "a".into(), members: 0..1, life: 1 }]);
//! let rows = all.take_changes();
//!
//! // Later, with the rows of a store:
//! let end: StepEnd = serde_json::from_str(r#"{"workflow": "w-1", "step": "a", "life": 1, "origin": "6f1c", "attempt": 1,
//!     "at": 1800000000000, "outcome": "completed"}"#)?;
//! let mut snapshot = Snapshot::new(rows.workflow.clone().ok_or("it is new")?);
//! let input = Input::End(end);
//! let actions = loop {
//!     match snapshot.apply(&input) {
//!         Ok(actions) => break actions,
//!         Err(ApplyError::Missing(loads)) => for load in loads {
//!             rows.answer(&load, &mut snapshot);
//!         },
//!         Err(ApplyError::Refused(refusal)) => return Err(refusal.into()),
//!     }
//! };
//! assert_eq!(actions, [Action::Publish { step: "b".into(), members: 0..1, life: 1 }]);
//! assert_eq!(snapshot.workflow().status(), Status::Running);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # Several inputs in one transaction
//!
//! Apply them one after the other to one snapshot. Write the changes before you load further rows: the store answers
//! [`Load::Compensable`] from its rows.

mod add;
mod apply;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_tests;
mod needs;
mod operator;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod undo;

use std::ops::Range;

pub use self::{
    snapshot::{Changes, Snapshot},
    state::{Failure, MemberEnd, MemberState, Phase, Status, StepPhase, StepState, Stop, Undo, Waiting, WorkflowState},
};
use crate::workflow::end::StepEnd;

/// Something that happens to a workflow.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all inputs are ends")]
pub enum Input {
    /// The job of a step has ended. The first end of a life counts; later ones are [`Refusal::Late`].
    End(StepEnd),
    /// Starts no further jobs until the workflow is resumed, except jobs that an operator retries.
    Pause,
    /// Ends a pause: steps and compensations start again.
    Resume,
    /// Cancels the running steps and starts no others. Then compensates the steps that have succeeded.
    Cancel,
    /// The workflow has not ended in time.
    DeadlinePassed,
    /// Retries the failed jobs. If a compensation or the job of `on_failure` has failed, retries that job instead.
    Retry(Which),
    /// Lets the workflow go on without the failed jobs. If a compensation or the job of `on_failure` has failed, skips
    /// that job instead.
    Skip(Which),
}

/// The failed jobs that an operator's command is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// All failed jobs of the workflow.
    All,
    /// All failed jobs of one step.
    Step(String),
    /// One job of a step, by its position in the group. The position is 0 if the step is not a group.
    Member(String, u32),
}

/// Something to do, in this order, once the changes are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish jobs of a step, by their positions in the group. A step that is not a group has one job, at position 0.
    Publish {
        /// The step.
        step: String,
        /// The positions.
        members: Range<u32>,
        /// The life that is published.
        life: u32,
    },
    /// Publish the compensation of a step.
    Compensate {
        /// The step.
        step: String,
        /// The life that is published.
        life: u32,
    },
    /// Publish the job of [`on_failure`](crate::workflow::Workflow::on_failure).
    OnFailure {
        /// The life that is published.
        life: u32,
    },
    /// Cancel all jobs of the workflow that are steps ([`cancel_id`](crate::workflow::cancel_id)).
    CancelJobs,
    /// Raise an alarm, because a compensation or the job of `on_failure` has failed. The workflow waits for an
    /// operator.
    Alarm(Failure),
    /// The workflow has ended in this way.
    Ended(Status),
}

/// Rows that [`Snapshot::apply`] needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// The step of this name: [`Snapshot::put_step`], with `None` if there is none.
    Step(String),
    /// The job at this position of a step: [`Snapshot::put_member`].
    Member(String, u32),
    /// All steps in [`StepPhase::Held`]: [`Snapshot::put_step`] for each, then [`Snapshot::loaded`].
    Held,
    /// All jobs that have failed, of one step or of all: [`Snapshot::put_member`] for each, then [`Snapshot::loaded`].
    Failed(Option<String>),
    /// Of the steps in [`Undo::Ready`] with a completed job, the one with the greatest
    /// [`last_success`](StepState::last_success): [`Snapshot::put_step`], then [`Snapshot::loaded`].
    Compensable,
}

/// The reason why an input was not applied. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError {
    /// Rows are needed first.
    Missing(Vec<Load>),
    /// The input does not fit the state.
    Refused(Refusal),
}

/// The reason why an input does not fit the state of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The end of a job that has ended before, or that was not published.
    #[error("this life of the job has ended before, or has not begun")]
    Late,
    /// The end names another origin than the workflow has.
    #[error("the end is not from a job of this workflow: its origin differs")]
    Foreign,
    /// There is no such step or member.
    #[error("the workflow has no such step")]
    UnknownStep,
    /// The workflow has ended.
    #[error("the workflow has ended")]
    HasEnded,
    /// No job has failed that can be retried or skipped.
    #[error("the workflow has no failed job that can be retried or skipped")]
    NothingFailed,
    /// Compensations have run, or the deadline has passed, or the workflow was cancelled.
    #[error("the workflow cannot go on: it is compensated, cancelled or past its deadline; start it under another id")]
    Final,
}
