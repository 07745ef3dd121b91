//! The pure engine: from what happens to what follows. It knows no broker, no store and no clock.
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
//! Apply them one after the other to one snapshot. Write the changes before you load further rows: [`Load::Compensable`]
//! is answered by what is stored.

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
    /// Nothing starts from now on, except what an operator retries, until it is resumed.
    Pause,
    /// Steps start again.
    Resume,
    /// Running steps are cancelled, no other starts, and what has succeeded is compensated.
    Cancel,
    /// The workflow has not ended in time.
    DeadlinePassed,
    /// An operator starts failed jobs once more. If a compensation has failed, it is that one.
    Retry(Which),
    /// An operator lets the workflow go on without failed jobs. If a compensation has failed, it is that one.
    Skip(Which),
}

/// The failed jobs that an operator's command is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// All of the workflow.
    All,
    /// All of one step.
    Step(String),
    /// One member of a group, by its position; 0 for a step that is no group.
    Member(String, u32),
}

/// Something to do, in this order, once the changes are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish these jobs of a step: of a group by position, of another step its only job, 0.
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
    /// A job that undoes has failed: raise an alarm. The workflow waits for an operator.
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
    /// Nothing has failed that could be retried or skipped.
    #[error("nothing of it has failed and waits")]
    NothingFailed,
    /// Compensations have run, or the deadline has passed, or the workflow was cancelled.
    #[error("the workflow cannot go on: it is compensated, cancelled or past its deadline; start it under another id")]
    Final,
}
