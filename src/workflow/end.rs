//! The message by which a worker reports the end of a step.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    message::step::StepRef,
    workflow::{WorkflowError, definition::Steps},
};

/// The largest result of a step, in bytes of JSON.
pub const RESULT_LIMIT: usize = crate::tracking::status_update::RESULT_LIMIT;
/// The largest set of steps that one running step can add, in bytes of JSON.
pub const ADDED_LIMIT: usize = 4 * 1024 * 1024;

/// The property `type` of a message with a [`Workflow`](crate::workflow::Workflow) to start.
pub const START: &str = "leveret.workflow.start";
/// The property `type` of a message with a [`StepEnd`].
pub const END: &str = "leveret.workflow.end";

/// The end of a step's job, as its worker publishes it before it settles the job. Its wire form is the JSON of this type,
/// in which a time is whole milliseconds since the epoch.
///
/// ```
/// use leveret::workflow::{StepEnd, StepOutcome};
///
/// let end: StepEnd = serde_json::from_str(r#"{"workflow": "order-17", "step": "charge", "life": 1, "origin": "6f1c",
///     "attempt": 2, "at": 1800000000000, "outcome": "completed", "result": {"receipt": 17}}"#)?;
/// assert_eq!(end.of.to_string(), "order-17:charge");
/// assert!(matches!(end.outcome, StepOutcome::Completed { too_large: None, .. }));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct StepEnd {
    /// The step.
    pub of: StepRef,
    /// The random origin that all jobs of the workflow share. The server drops an end with another origin.
    pub origin: String,
    /// The attempt that ended the job, from 1; 0 for a job that no worker got.
    pub attempt: u32,
    /// The time of the delivery of that attempt, if the job ran.
    pub started_at: Option<SystemTime>,
    /// The time of the end, on the worker's clock.
    pub at: SystemTime,
    /// The time of the last replay of the job's dead letter, if there was one. After a retry by an operator: the time
    /// of that publish.
    pub replayed_at: Option<SystemTime>,
    /// Host and process id of the worker.
    pub worker: Option<String>,
    /// The fate of the job.
    pub outcome: StepOutcome,
}

/// The fate of a step's job.
#[derive(Clone, Debug)]
pub enum StepOutcome {
    /// The job succeeded, or its handler found that an earlier run had completed it.
    Completed {
        /// The result as JSON, if the handler returned one and it is not too large.
        result: Option<Box<RawValue>>,
        /// The size in bytes of a result that was too large to keep.
        too_large: Option<u64>,
        /// The steps that the job adds.
        add: Steps,
    },
    /// The job was dead-lettered.
    Failed {
        /// The class of the error, as [`ErrorKind`](crate::ErrorKind) names it.
        kind: String,
        /// The error and its sources.
        error: String,
    },
    /// The job was cancelled before it was done.
    Cancelled,
}

impl StepOutcome {
    /// Returns the outcome of a success without a result.
    #[must_use]
    pub fn completed() -> Self {
        Self::Completed { result: None, too_large: None, add: Steps::default() }
    }

    /// Returns the outcome of a failure.
    #[must_use]
    pub fn failed(kind: &str, error: &str) -> Self {
        Self::Failed { kind: kind.to_owned(), error: error.to_owned() }
    }
}

/// The form of [`StepEnd`] on the wire: one flat object.
#[derive(Serialize, Deserialize)]
struct Wire {
    workflow: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    step: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    member: Option<u32>,
    #[serde(default)]
    role: crate::message::step::Role,
    life: u32,
    #[serde(default)]
    origin: String,
    attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::wire_option")]
    started_at: Option<SystemTime>,
    #[serde(with = "crate::time::wire")]
    at: SystemTime,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::wire_option")]
    replayed_at: Option<SystemTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    outcome: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    too_large: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    add: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    Completed,
    Failed,
    Cancelled,
}

/// Reads added steps. Steps that cannot be read fail the workflow, and leave the end readable.
fn added(add: &RawValue, adder: &str) -> Steps {
    serde_json::from_str(add.get()).unwrap_or_else(|error| {
        let reason = format!("the steps that it adds cannot be read: {error}");
        Steps { fault: Some(WorkflowError::Job { step: adder.to_owned(), reason }), ..Steps::default() }
    })
}

impl From<Wire> for StepEnd {
    fn from(wire: Wire) -> Self {
        let outcome = match wire.outcome {
            Name::Completed => {
                let add = wire.add.map(|add| added(&add, &wire.step)).unwrap_or_default();
                StepOutcome::Completed { result: wire.result, too_large: wire.too_large, add }
            }
            Name::Failed => StepOutcome::Failed { kind: wire.kind, error: wire.error },
            Name::Cancelled => StepOutcome::Cancelled,
        };
        let (workflow, step, member) = (wire.workflow, wire.step, wire.member);
        Self {
            of: StepRef { workflow, step, member, role: wire.role, life: wire.life },
            origin: wire.origin,
            attempt: wire.attempt,
            started_at: wire.started_at,
            at: wire.at,
            replayed_at: wire.replayed_at,
            worker: wire.worker,
            outcome,
        }
    }
}

impl From<StepEnd> for Wire {
    fn from(end: StepEnd) -> Self {
        let StepRef { workflow, step, member, role, life } = end.of;
        let mut wire = Self {
            workflow,
            step,
            member,
            role,
            life,
            origin: end.origin,
            attempt: end.attempt,
            started_at: end.started_at,
            at: end.at,
            replayed_at: end.replayed_at,
            worker: end.worker,
            outcome: Name::Cancelled,
            result: None,
            too_large: None,
            add: None,
            kind: String::new(),
            error: String::new(),
        };
        match end.outcome {
            StepOutcome::Completed { result, too_large, add } => {
                let add = Some(add).filter(|add| !add.is_empty());
                let add = add.and_then(|add| serde_json::value::to_raw_value(&add).ok());
                (wire.outcome, wire.result, wire.too_large, wire.add) = (Name::Completed, result, too_large, add);
            }
            StepOutcome::Failed { kind, error } => (wire.outcome, wire.kind, wire.error) = (Name::Failed, kind, error),
            StepOutcome::Cancelled => {}
        }
        wire
    }
}
