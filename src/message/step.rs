//! The headers by which a message is a step of a workflow.

use std::fmt;

use lapin::types::FieldTable;
use serde::{Deserialize, Serialize};

use crate::{
    job::JobId,
    message::{LONGEST_NAME, Message, header, integer, text},
};

/// The part that a job has in its workflow.
///
/// ```
/// use leveret::workflow::Role;
///
/// assert_eq!(Role::Compensation.as_str(), "compensation");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A step, or a member of a group.
    #[default]
    Step,
    /// The job that compensates a step that has succeeded.
    Compensation,
    /// The job that runs once the workflow has failed.
    OnFailure,
}

impl Role {
    /// Returns the name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Compensation => "compensation",
            Self::OnFailure => "on_failure",
        }
    }

    fn is_step(&self) -> bool {
        *self == Self::Step
    }
}

/// The address of one job of a workflow.
///
/// Its text is the job's id: `order-17:charge` for a step, `order-17:label:3` for a member of a group,
/// `order-17:charge:compensation` for a compensation, and `order-17::on_failure`.
///
/// ```
/// use leveret::workflow::StepRef;
///
/// let label = StepRef::member("order-17", "label", 3);
/// assert_eq!(label.to_string(), "order-17:label:3");
/// assert_eq!(label.life, 1);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepRef {
    /// The workflow's id.
    pub workflow: String,
    /// The step's name; empty for [`Role::OnFailure`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// The position in the group, from 0; `None` unless the step is a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<u32>,
    /// The part that the job has.
    #[serde(default, skip_serializing_if = "Role::is_step")]
    pub role: Role,
    /// Counted from 1: each retry by an operator begins a new life.
    pub life: u32,
}

impl StepRef {
    /// Returns the address of a step in its first life.
    #[must_use]
    pub fn step(workflow: impl Into<String>, step: impl Into<String>) -> Self {
        Self { workflow: workflow.into(), step: step.into(), member: None, role: Role::Step, life: 1 }
    }

    /// Returns the address of a member of a group in its first life.
    #[must_use]
    pub fn member(workflow: impl Into<String>, step: impl Into<String>, member: u32) -> Self {
        Self { member: Some(member), ..Self::step(workflow, step) }
    }

    /// Returns the job's id.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        JobId::from(self.to_string())
    }

    /// Returns the id under which the whole workflow is cancelled; see [`cancel_id`].
    pub(crate) fn cancel_id(&self) -> Option<String> {
        // What cleans up after a cancelled workflow must run.
        (self.role == Role::Step).then(|| cancel_id(&self.workflow))
    }
}

impl fmt::Display for StepRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.workflow, self.step)?;
        match (self.role, self.member) {
            (Role::Step, None) => Ok(()),
            (Role::Step, Some(member)) => write!(f, ":{member}"),
            (role, _) => write!(f, ":{}", role.as_str()),
        }
    }
}

/// Returns the id for [`Publisher::cancel`](crate::Publisher::cancel) that cancels all steps of a workflow at once: each
/// step's worker looks for it beside the id of its job.
///
/// Cancelling in this way ends the jobs only. The server, which runs the workflow, learns of it from their ends.
///
/// ```
/// assert_eq!(leveret::workflow::cancel_id("order-17"), "order-17:*");
/// ```
#[must_use]
pub fn cancel_id(workflow: &str) -> String {
    format!("{workflow}:*")
}

/// The headers that the message of a step has beside those of its job: its place, and the results of its predecessors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepHeaders {
    pub(crate) at: StepRef,
    /// JSON; see [`PredecessorResults`](crate::workflow::PredecessorResults).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) results: Option<String>,
}

/// The number of copies after which the next life of a step counts its own: more than any life makes.
///
/// ```
/// let of_second_life = leveret::workflow::HOPS_PER_LIFE..2 * leveret::workflow::HOPS_PER_LIFE;
/// assert!(of_second_life.contains(&1_000_003));
/// ```
pub const HOPS_PER_LIFE: u64 = 1_000_000;

impl StepHeaders {
    /// Adds the headers. A later life is to its job as a replay is: cancellations before `decided_at` (ms since the epoch)
    /// do not concern it, and its status updates are newer than all earlier ones.
    pub(crate) fn write(&self, headers: &mut FieldTable, decided_at: u64) {
        let Self { at, results } = self;
        headers.insert(header::WORKFLOW.into(), text(&at.workflow));
        headers.insert(header::WORKFLOW_LIFE.into(), integer(at.life.into()));
        if !at.step.is_empty() {
            headers.insert(header::WORKFLOW_STEP.into(), text(&at.step));
        }
        if let Some(member) = at.member {
            headers.insert(header::WORKFLOW_MEMBER.into(), integer(member.into()));
        }
        if at.role != Role::Step {
            headers.insert(header::WORKFLOW_ROLE.into(), text(at.role.as_str()));
        }
        if let Some(results) = results {
            headers.insert(header::WORKFLOW_RESULTS.into(), text(results));
        }
        if at.life > 1 {
            headers.insert(header::REPLAYED_AT.into(), integer(decided_at));
            headers.insert(header::HOP.into(), integer(u64::from(at.life - 1) * HOPS_PER_LIFE));
        }
    }
}

impl Message {
    /// Returns which step of which workflow this is, if it is one.
    pub(crate) fn step(&self) -> Option<StepRef> {
        let workflow = self.bounded(header::WORKFLOW, LONGEST_NAME)?.to_owned();
        let number = |name| self.number(name).and_then(Result::ok).and_then(|number| u32::try_from(number).ok());
        let role = match self.bounded(header::WORKFLOW_ROLE, LONGEST_NAME) {
            Some("compensation") => Role::Compensation,
            Some("on_failure") => Role::OnFailure,
            _ => Role::Step,
        };
        Some(StepRef {
            workflow,
            step: self.bounded(header::WORKFLOW_STEP, LONGEST_NAME).unwrap_or_default().to_owned(),
            member: number(header::WORKFLOW_MEMBER),
            role,
            life: number(header::WORKFLOW_LIFE).unwrap_or(1),
        })
    }

    pub(crate) fn is_step(&self) -> bool {
        self.bounded(header::WORKFLOW, LONGEST_NAME).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_step_that_its_headers_name() {
        let steps = [
            StepRef::step("order-17", "charge"),
            StepRef { life: 3, ..StepRef::member("order-17", "label", 7) },
            StepRef { role: Role::Compensation, ..StepRef::step("order-17", "charge") },
            StepRef { role: Role::OnFailure, ..StepRef::step("order-17", "") },
        ];
        let ids = ["order-17:charge", "order-17:label:7", "order-17:charge:compensation", "order-17::on_failure"];
        for (at, id) in steps.into_iter().zip(ids) {
            assert_eq!(at.job_id(), id);
            let mut headers = FieldTable::default();
            StepHeaders { at: at.clone(), results: None }.write(&mut headers, 5);
            let message = Message::with_headers("j", &at.job_id(), Vec::new(), 5, headers);
            assert!(message.is_step());
            assert_eq!(message.replayed_at().is_some(), at.life > 1, "a later life is a replay");
            assert_eq!(message.step(), Some(at));
        }
        assert_eq!(Message::new("j", &JobId::from("a"), Vec::new(), 5).step(), None);
    }
}
