//! Builds workflows, and the steps that a running step adds.

use std::time::Duration;

use serde_json::value::RawValue;

use crate::{
    publish::{new_job::NewJob, step::StepParts},
    workflow::{
        WorkflowError,
        definition::{IfFailed, JobSpec, Step, Steps, Workflow},
    },
};

/// The names of one or more steps.
#[derive(Clone, Debug)]
pub struct StepNames(Vec<String>);

impl From<&str> for StepNames {
    fn from(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }
}

impl From<String> for StepNames {
    fn from(name: String) -> Self {
        Self(vec![name])
    }
}

impl<T: Into<String>, const N: usize> From<[T; N]> for StepNames {
    fn from(names: [T; N]) -> Self {
        Self(names.map(Into::into).into())
    }
}

impl<T: Into<String>> From<Vec<T>> for StepNames {
    fn from(names: Vec<T>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

impl Steps {
    /// Creates a set without steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step: a reference to a [`Job`](crate::Job), or a [`NewJob`] with options. The methods below set its place.
    pub fn step(self, name: impl Into<String>, job: impl Into<NewJob>) -> Self {
        let name = name.into();
        match parts(&name, job.into()) {
            Ok((spec, _)) => self.add(name, spec.into_step()),
            Err(fault) => self.fail(fault),
        }
    }

    /// Adds a group: a step of many jobs that run at the same time. It ends when all of them have ended; an empty group
    /// ends at once. The jobs may differ in their payload alone.
    pub fn steps<N: IntoJob>(self, name: impl Into<String>, jobs: impl IntoIterator<Item = N>) -> Self {
        let name = name.into();
        let (mut group, mut each) = (None::<JobSpec>, Vec::new());
        for job in jobs {
            let (spec, payload) = match parts(&name, job.into_job()) {
                Ok(parts) => parts,
                Err(fault) => return self.fail(fault),
            };
            each.push(payload);
            match &group {
                Some(group) if !group.is_alike(&spec) => return self.fail(WorkflowError::MixedGroup { step: name }),
                Some(_) => {}
                None => group = Some(spec),
            }
        }
        let mut step = match group.or_else(N::kind) {
            Some(spec) => spec.into_step(),
            None => return self.fail(WorkflowError::EmptyUntyped { step: name }),
        };
        (step.payload, step.each) = (None, Some(each));
        self.add(name, step)
    }

    /// Makes the last step start after these have ended.
    pub fn after(self, steps: impl Into<StepNames>) -> Self {
        self.last("after", |step| step.after.extend(steps.into().0))
    }

    /// Makes these steps, which must not have started, wait for the last one. For steps that a running step adds.
    pub fn before(self, steps: impl Into<StepNames>) -> Self {
        self.last("before", |step| step.before.extend(steps.into().0))
    }

    /// Sets the job that compensates the last step if the step has succeeded and the workflow fails or is cancelled. It is
    /// one job for a group, of which at least one job has succeeded.
    pub fn compensate(self, job: impl Into<NewJob>) -> Self {
        let name = self.list.last().map(|(name, _)| name.clone()).unwrap_or_default();
        match parts(&name, job.into()) {
            Ok((spec, _)) => self.last("compensate", |step| step.compensate = Some(Box::new(spec))),
            Err(fault) => self.fail(fault),
        }
    }

    /// Sets what happens if the last step fails; by default the workflow fails.
    pub fn if_failed(self, then: IfFailed) -> Self {
        self.last("if_failed", |step| step.if_failed = then)
    }

    /// Returns these steps followed by `others`.
    #[cfg(feature = "worker")]
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.list.extend(others.list);
        self.fault = self.fault.or(others.fault);
        self
    }

    /// Returns the steps and their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Step)> {
        self.list.iter().map(|(name, step)| (name.as_str(), step))
    }

    /// Returns how many steps there are; a group is one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns whether there is no step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn add(mut self, name: String, step: Step) -> Self {
        self.list.push((name, step));
        self
    }

    fn last(mut self, method: &'static str, set: impl FnOnce(&mut Step)) -> Self {
        match self.list.last_mut() {
            Some((_, step)) => {
                set(step);
                self
            }
            None => self.fail(WorkflowError::NoStepYet { method }),
        }
    }

    fn fail(mut self, fault: WorkflowError) -> Self {
        self.fault.get_or_insert(fault);
        self
    }
}

/// A job of a group.
pub trait IntoJob {
    /// Describes the job.
    fn into_job(self) -> NewJob;

    /// Returns the specification for the jobs of an empty group, if the type determines it.
    #[doc(hidden)]
    fn kind() -> Option<JobSpec>;
}

impl<J: crate::job::Job> IntoJob for J {
    fn into_job(self) -> NewJob {
        NewJob::of(&self)
    }

    fn kind() -> Option<JobSpec> {
        let payload = RawValue::NULL.to_owned();
        Some(JobSpec { job: J::NAME.into(), queue: Some(J::QUEUE.into()), payload, options: Default::default() })
    }
}

impl IntoJob for NewJob {
    fn into_job(self) -> NewJob {
        self
    }

    fn kind() -> Option<JobSpec> {
        None
    }
}

impl JobSpec {
    fn into_step(self) -> Step {
        let Self { job, queue, payload, options } = self;
        let (after, before) = (Vec::new(), Vec::new());
        let payload = Some(payload);
        let if_failed = IfFailed::default();
        Step { job, queue, payload, each: None, after, before, compensate: None, if_failed, options }
    }

    fn is_alike(&self, other: &Self) -> bool {
        (&self.job, &self.queue, &self.options) == (&other.job, &other.queue, &other.options)
    }
}

/// Splits a job into its specification, which keeps the payload, and a copy of the payload.
fn parts(step: &str, job: NewJob) -> Result<(JobSpec, Box<RawValue>), WorkflowError> {
    let StepParts { name, queue, payload, options } =
        job.into_step().map_err(|error| WorkflowError::job(step, &error))?;
    let not_json = || WorkflowError::NotJson { step: step.to_owned(), job: name.clone() };
    let payload = String::from_utf8(payload).map_err(|_| not_json())?;
    let payload = RawValue::from_string(payload).map_err(|_| not_json())?;
    Ok((JobSpec { job: name.clone(), queue: Some(queue), payload: payload.clone(), options }, payload))
}

impl Workflow {
    /// Creates a workflow of this kind, without steps. The name is that of the kind of workflow, like the name of a
    /// job.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            id: None,
            steps: Steps::default(),
            on_failure: None,
            deadline: None,
            labels: Default::default(),
            track: true,
        }
    }

    /// Sets the id, 1 to 128 bytes; a UUIDv7 by default. A second start under the same id is the same workflow.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the job that runs once the workflow has failed, after all compensations.
    pub fn on_failure(mut self, job: impl Into<NewJob>) -> Self {
        match parts("on_failure", job.into()) {
            Ok((spec, _)) => self.on_failure = Some(spec),
            Err(fault) => self.steps = self.steps.fail(fault),
        }
        self
    }

    /// Makes the workflow fail if it has not ended within this time from its start. Running steps are then cancelled.
    pub fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within);
        self
    }

    /// Adds a text that tools show with the workflow and that they select by. At most 32; a name has up to 64 bytes, a
    /// text up to 255.
    pub fn label(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.labels.insert(name.into(), text.into());
        self
    }

    /// Makes workers publish no status updates of the steps, except of those whose job is tracked. It saves four small
    /// messages a step. The workflow's own state is not affected.
    pub fn untracked(mut self) -> Self {
        self.track = false;
        self
    }

    /// Returns the id, if it is set.
    #[must_use]
    pub fn workflow_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the steps.
    pub fn step_list(&self) -> &Steps {
        &self.steps
    }

    /// Returns the job that runs once the workflow has failed.
    #[must_use]
    pub fn failure_job(&self) -> Option<&JobSpec> {
        self.on_failure.as_ref()
    }

    /// Returns the time within which the workflow must end.
    #[must_use]
    pub fn time_limit(&self) -> Option<Duration> {
        self.deadline
    }

    /// Returns the texts that tools show.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Returns whether workers publish status updates of the steps.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.track
    }
}

/// Defines methods of [`Workflow`] as those of its [`Steps`].
macro_rules! of_steps {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*);)*) => {
        impl Workflow {$(
            #[doc = concat!("See [`Steps::", stringify!($name), "`](Steps::", stringify!($name), ").")]
            pub fn $name(mut self, $($argument: $type),*) -> Self {
                self.steps = self.steps.$name($($argument),*);
                self
            }
        )*}
    };
}

of_steps! {
    step(name: impl Into<String>, job: impl Into<NewJob>);
    after(steps: impl Into<StepNames>);
    compensate(job: impl Into<NewJob>);
    if_failed(then: IfFailed);
}

impl Workflow {
    /// See [`Steps::steps`](Steps::steps).
    pub fn steps<N: IntoJob>(mut self, name: impl Into<String>, jobs: impl IntoIterator<Item = N>) -> Self {
        self.steps = self.steps.steps(name, jobs);
        self
    }
}
