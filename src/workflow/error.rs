//! The faults of a workflow's definition.

use crate::error::PublishError;

/// The most steps of a cycle that its error names.
const MOST_SHOWN: usize = 20;

/// The reason why a workflow cannot be started, or why steps cannot be added to one.
///
/// ```
/// use leveret::{NewJob, workflow::{Workflow, WorkflowError}};
///
/// let job = || NewJob::raw("task", "tasks", "{}");
/// let cycle = Workflow::new("w").step("a", job()).after("b").step("b", job()).after("a");
/// assert_eq!(cycle.check(), Err(WorkflowError::Cycle { steps: vec!["a".into(), "b".into()] }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkflowError {
    /// The id breaks the rule in the text.
    #[error("workflow id {id:?}: {reason}")]
    Id {
        /// The id.
        id: String,
        /// The rule.
        reason: &'static str,
    },
    /// The name of the workflow, of a step or of a label breaks the rule in the text.
    #[error("the name {name:?} of {what}: {reason}")]
    Name {
        /// The thing that has the name.
        what: &'static str,
        /// The name.
        name: String,
        /// The rule.
        reason: &'static str,
    },
    /// Steps were added by a job that is no step of a workflow.
    #[error("only a step of a workflow can add steps: this job was published by itself")]
    NotAStep,
    /// The workflow has no steps.
    #[error("the workflow has no steps: add at least one")]
    Empty,
    /// A method that sets a property of the last step was called before there was one.
    #[error("{method} sets a property of the step before it, and there is no step yet: call step first")]
    NoStepYet {
        /// The method.
        method: &'static str,
    },
    /// Two steps have one name.
    #[error("two steps have the name {step:?}: give each step a name of its own")]
    TwoOfOneName {
        /// The name.
        step: String,
    },
    /// A step is to come after or before one that does not exist.
    #[error("step {step:?} names {unknown:?} in {relation}, and there is no such step; there is: {known}")]
    UnknownStep {
        /// The step.
        step: String,
        /// `after` or `before`.
        relation: &'static str,
        /// The name without a step.
        unknown: String,
        /// Some names of steps.
        known: String,
    },
    /// Steps wait for each other.
    #[error("these steps wait for each other, so that none can start: {}", in_short(steps))]
    Cycle {
        /// The steps of one cycle, each after the next.
        steps: Vec<String>,
    },
    /// A step has both `payload` and `each`.
    #[error("step {step:?} has both payload and each: a step is one job, or a group")]
    PayloadAndEach {
        /// The step.
        step: String,
    },
    /// The jobs of a group differ in more than their payload.
    #[error("the jobs of group {step:?} differ in name, queue or options: only their payloads may differ")]
    MixedGroup {
        /// The step.
        step: String,
    },
    /// An empty group of [`NewJob`](crate::NewJob)s does not name its kind of job.
    #[error("group {step:?} is empty, and its jobs have no type: leave the step out, or use a type of job")]
    EmptyUntyped {
        /// The step.
        step: String,
    },
    /// The queue of a job is not known.
    #[error("step {step:?} names no queue for job {job:?}: set queue, or start a worker that has the job")]
    NoQueue {
        /// The step, or `on_failure`.
        step: String,
        /// The job.
        job: String,
    },
    /// A payload is no JSON.
    #[error("the payload of job {job:?} of step {step:?} is not JSON: a workflow has payloads in JSON only")]
    NotJson {
        /// The step, or `on_failure`.
        step: String,
        /// The job.
        job: String,
    },
    /// The job of a step could not be published as it is.
    #[error("step {step:?}: {reason}")]
    Job {
        /// The step, or `on_failure`.
        step: String,
        /// The fault and its value.
        reason: String,
    },
    /// The deadline is zero, or over ten years.
    #[error("the deadline of the workflow is {seconds} s: set more than 0 and less than ten years")]
    Deadline {
        /// Its seconds.
        seconds: u64,
    },
    /// More labels than tools show, or a text that is too long or has control characters.
    #[error(
        "label {name:?}: a workflow has at most 32 labels, with texts of at most 255 bytes and without control characters"
    )]
    Label {
        /// The first label that is too much.
        name: String,
    },
    /// The definition is larger than one message may be.
    #[error(
        "the workflow is {size} bytes as JSON, and at most {limit} are possible; its largest step is {step:?}: keep large data \
         elsewhere, or let a step add further steps"
    )]
    TooLarge {
        /// The largest step.
        step: String,
        /// The size of the workflow in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The definition has more jobs than a server keeps in memory.
    #[error(
        "the workflow has {jobs} jobs, and at most {limit} are possible; its largest step is {step:?}: start several \
         workflows, or let a step add further steps"
    )]
    TooManyJobs {
        /// The largest step.
        step: String,
        /// The number of steps and members of groups.
        jobs: usize,
        /// The limit.
        limit: usize,
    },
    /// A step of the workflow itself names steps that wait for it; only added steps may.
    #[error("step {step:?} has before: in a workflow, name the step in the after of those that wait for it")]
    BeforeInWorkflow {
        /// The step.
        step: String,
    },
    /// An added step waits for a step other than the one that adds it and the ones that are added with it.
    #[error(
        "added step {step:?} comes after {after:?}: it may come after the step that adds it, and after added steps"
    )]
    AfterOther {
        /// The added step.
        step: String,
        /// The step that it may not wait for.
        after: String,
    },
    /// An added step names in `before` the step that adds it, or one that is added with it.
    #[error(
        "added step {step:?} cannot come before {before:?}, which adds it or is added with it: name {step:?} in the after \
         of {before:?}"
    )]
    BeforeAdded {
        /// The added step.
        step: String,
        /// The step that it may not precede.
        before: String,
    },
    /// An added step is to precede a step that has already started.
    #[error("added step {step:?} cannot come before {before:?}, which has started")]
    HasStarted {
        /// The added step.
        step: String,
        /// The step that has started.
        before: String,
    },
}

/// The steps of a cycle in one line, of a long one the first.
fn in_short(steps: &[String]) -> String {
    let shown = steps.get(..MOST_SHOWN).unwrap_or(steps).join(" after ");
    if steps.len() <= MOST_SHOWN { shown } else { format!("{shown} after {} more", steps.len() - MOST_SHOWN) }
}

impl WorkflowError {
    pub(super) fn job(step: &str, error: &PublishError) -> Self {
        Self::Job { step: step.to_owned(), reason: error.to_string() }
    }
}
