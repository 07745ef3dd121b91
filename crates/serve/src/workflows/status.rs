//! The statuses of workflows and of their steps.

use std::{fmt, str::FromStr};

use leveret::workflow::engine::Status;
use serde::Serialize;
use utoipa::ToSchema;

/// The status of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum WorkflowStatus {
    /// No job is published yet.
    Pending,
    /// Steps run, or wait for steps that run.
    Running,
    /// It goes on only after something else has happened: see `waiting_for`.
    Waiting,
    /// All steps have ended, each with success or skipped.
    Completed,
    /// A step has failed, or the deadline has passed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl WorkflowStatus {
    /// All statuses.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Waiting, Self::Completed, Self::Failed, Self::Cancelled];

    pub(super) fn of(status: &Status) -> Self {
        match status {
            Status::Pending => Self::Pending,
            Status::Running => Self::Running,
            Status::Waiting(_) => Self::Waiting,
            Status::Completed => Self::Completed,
            Status::Failed => Self::Failed,
            Status::Cancelled => Self::Cancelled,
        }
    }

    /// Returns whether nothing follows, unless an operator retries a failed step.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for WorkflowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for WorkflowStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|status| status.to_string().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("{text:?} is none of {}", Self::ALL.map(|status| status.to_string()).join(", ")))
    }
}

/// The status of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum StepStatus {
    /// Its predecessors have not ended, or the workflow is paused.
    Waiting,
    /// Its jobs are in their queue, or will be.
    Pending,
    /// A worker has one of its jobs.
    Running,
    /// It has succeeded.
    Completed,
    /// It has failed.
    Failed,
    /// The workflow went on without it.
    Skipped,
    /// It was cancelled, or does not start because the workflow has ended.
    Cancelled,
}

impl fmt::Display for StepStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
