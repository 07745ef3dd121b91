//! Runs a workflow beside a test, by the engine of the server.

use std::{collections::HashMap, time::Duration};

use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

use crate::{
    broker::Broker,
    error::{Error, PublishError},
    job::JobId,
    message::step::{Role, StepRef, cancel_id},
    publish::{new_job::NewJob, publisher::Publisher},
    testing::run::start,
    topology::Topology,
    transport::session::Session,
    worker::builder::Worker,
    workflow::{
        PredecessorResults, StartError, StepEnd, StepOutcome, StepResultError, Workflow,
        definition::{JobSpec, Step},
        engine::{Action, ApplyError, Input, Snapshot, Status},
    },
};

/// The origin of the jobs of these workflows.
const ORIGIN: &str = "test";

/// The outcome of a workflow; see [`workflow`].
#[derive(Debug)]
pub struct WorkflowRun {
    status: Status,
    ends: Vec<StepEnd>,
}

/// Runs a workflow on an in-memory broker, with the handlers of a worker, until it has ended or waits for an operator. With
/// tokio's clock paused, delays and retries pass at once.
///
/// ```
/// use leveret::{Context, JobResult, Worker, testing, workflow::{Workflow, engine::Status}};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "charge", queue = "money")] struct Charge { cents: u64 }
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "ship", queue = "parcels")] struct Ship;
///
/// async fn charge(job: Charge, _: Context<()>) -> JobResult<u64> {
///     Ok(job.cents)
/// }
///
/// async fn ship(_: Ship, ctx: Context<()>) -> JobResult<String> {
///     Ok(format!("paid {}", ctx.result_of::<u64>("charge")?))
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let order = Workflow::new("order").step("charge", &Charge { cents: 5 }).step("ship", &Ship).after("charge");
/// let run = testing::workflow(Worker::new(()).handle(charge).handle(ship), &order).await?;
/// assert_eq!(run.status(), &Status::Completed);
/// assert_eq!(run.result_of::<String>("ship")?, "paid 5");
/// assert_eq!(run.order().collect::<Vec<_>>(), ["order:charge", "order:ship"]);
/// # Ok(()) }
/// ```
///
/// A workflow without an id has its name as id.
///
/// # Errors
///
/// The error of [`Worker::run`], or [`Error::Setting`] for a workflow that cannot be started, or whose step has a queue that
/// the worker does not have.
///
/// # Panics
///
/// Panics if the worker panics.
pub async fn workflow<S: Send + Sync + 'static>(worker: Worker<S>, workflow: &Workflow) -> Result<WorkflowRun, Error> {
    let broker = Broker::memory();
    let queue = Topology::new(&broker.config().namespace).workflows();
    let mut session = broker.transport().open_raw(&queue, 1_000).await.map_err(|error| error.of(&queue))?;
    let mut workflow = workflow.clone();
    if workflow.id.is_none() {
        workflow = workflow.clone().id(workflow.name().to_owned());
    }
    broker.publisher().start(&workflow).await.map_err(|error| not_started(&error))?;
    let (tag, body) = next(&mut session, &queue).await?;
    session.ack(tag, false);
    let workflow = serde_json::from_slice(&body).map_err(Error::Encode)?;
    let running = start(worker, &broker).await?;
    let (driver, actions) = Driver::new(&broker, workflow);
    let run = driver.run(&mut session, &queue, actions).await;
    running.stop().await?;
    run
}

impl WorkflowRun {
    /// Returns how the workflow has ended, or what it waits for.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Returns the ends of all jobs that have run, in their order.
    #[must_use]
    pub fn ends(&self) -> &[StepEnd] {
        &self.ends
    }

    /// Returns the ids of the jobs that have run, in the order of their ends.
    pub fn order(&self) -> impl Iterator<Item = String> + '_ {
        self.ends.iter().map(|end| end.of.to_string())
    }

    /// Returns what became of a job: of a step by its name (`charge`), of a member of a group by name and position
    /// (`label:3`), of a compensation (`charge:compensation`); `None` if it has not run.
    #[must_use]
    pub fn outcome(&self, of: &str) -> Option<&StepOutcome> {
        let found =
            self.ends.iter().rev().find(|end| end.of.to_string().split_once(':').is_some_and(|(_, id)| id == of));
        found.map(|end| &end.outcome)
    }

    /// Returns the result of a job, which is named as for [`outcome`](Self::outcome).
    ///
    /// # Errors
    ///
    /// [`StepResultError`] if it has not succeeded, or if its result has another type or is too large.
    pub fn result_of<T: DeserializeOwned>(&self, of: &str) -> Result<T, StepResultError> {
        let mut results = PredecessorResults::default();
        match self.outcome(of) {
            Some(outcome @ StepOutcome::Completed { .. }) => add(&mut results, of, outcome),
            Some(StepOutcome::Failed { .. } | StepOutcome::Cancelled) => {
                return Err(StepResultError::NotCompleted { step: of.to_owned() });
            }
            None => {}
        }
        results.get(of)
    }
}

/// Adds what a job that has ended leaves for others.
fn add(results: &mut PredecessorResults, name: &str, outcome: &StepOutcome) {
    match outcome {
        StepOutcome::Completed { too_large: Some(size), .. } => results.add_too_large(name, *size),
        StepOutcome::Completed { result, .. } => results.add(name, result.as_deref().map(|json| json.get())),
        StepOutcome::Failed { .. } | StepOutcome::Cancelled => results.add_skipped(name),
    }
}

struct Driver {
    publisher: Publisher,
    workflow: Workflow,
    steps: HashMap<String, Step>,
    snapshot: Snapshot,
    ends: Vec<StepEnd>,
}

impl Driver {
    fn new(broker: &Broker, workflow: Workflow) -> (Self, Vec<Action>) {
        let id = workflow.workflow_id().unwrap_or_default().to_owned();
        let (snapshot, actions) = Snapshot::begin(&workflow, &id, ORIGIN);
        let steps = workflow.step_list().iter().map(|(name, step)| (name.to_owned(), step.clone())).collect();
        (Self { publisher: broker.publisher(), workflow, steps, snapshot, ends: Vec::new() }, actions)
    }

    async fn run(mut self, session: &mut Session, queue: &str, actions: Vec<Action>) -> Result<WorkflowRun, Error> {
        self.carry_out(actions).await?;
        let never = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let deadline = Instant::now() + self.workflow.time_limit().unwrap_or(never);
        let mut is_late = false;
        // What runs on after the end of a cancelled workflow is waited for, so that its outcome is known.
        while self.snapshot.workflow().running > 0 {
            let input = tokio::select! {
                biased;
                delivered = next(session, queue) => {
                    let (tag, body) = delivered?;
                    session.ack(tag, false);
                    Input::End(serde_json::from_slice(&body).map_err(Error::Encode)?)
                }
                () = sleep_until(deadline), if !is_late && !self.snapshot.workflow().status().is_end() => {
                    is_late = true;
                    Input::DeadlinePassed
                }
            };
            match self.snapshot.apply(&input) {
                Ok(actions) => {
                    if let Input::End(end) = input {
                        self.ends.push(end);
                    }
                    for (name, step) in self.snapshot.take_changes().added {
                        self.steps.insert(name, step);
                    }
                    self.carry_out(actions).await?;
                }
                // A job ran twice. Only its first end counts.
                Err(ApplyError::Refused(_) | ApplyError::Missing(_)) => {}
            }
        }
        Ok(WorkflowRun { status: self.snapshot.workflow().status(), ends: self.ends })
    }

    async fn carry_out(&self, actions: Vec<Action>) -> Result<(), Error> {
        for action in actions {
            match action {
                Action::Publish { step, members, life } => {
                    let specs: Vec<_> = self.steps.get(&step).map_or_else(Vec::new, |step| step.jobs().collect());
                    let job = |member: u32| self.step_job(specs.get(member as usize)?, &step, member, life);
                    let jobs: Vec<_> = members.filter_map(job).collect();
                    for published in self.publisher.publish_all(jobs).await {
                        published.map_err(|error| not_published(&step, &error))?;
                    }
                }
                Action::Compensate { step, life } => self.publish_undo(Role::Compensation, &step, life).await?,
                Action::OnFailure { life } => self.publish_undo(Role::OnFailure, "", life).await?,
                Action::CancelJobs => {
                    let id = cancel_id(&self.snapshot.workflow().id);
                    let cancelled = self.publisher.cancel(JobId::from(id)).await;
                    cancelled.map_err(|error| not_published("*", &error))?;
                }
                Action::Alarm(_) | Action::Ended(_) => {}
            }
        }
        Ok(())
    }

    fn step_job(&self, spec: &JobSpec, name: &str, member: u32, life: u32) -> Option<NewJob> {
        let row = self.snapshot.step(name)?;
        let mut results = PredecessorResults::default();
        for before in &row.after {
            self.add_results(&mut results, before);
        }
        let at = row.job(&self.snapshot.workflow().id, member, life);
        Some(spec.job(at, Some(&results), ORIGIN, self.workflow.is_tracked()))
    }

    fn add_results(&self, results: &mut PredecessorResults, name: &str) {
        let Some(row) = self.snapshot.step(name) else { return };
        if row.is_group {
            return results.add_group(name, row.size);
        }
        let is_of = |end: &&StepEnd| end.of.step == name && end.of.role == Role::Step;
        match self.ends.iter().rev().find(is_of) {
            Some(end) if !row.is_skipped() => add(results, name, &end.outcome),
            _ => results.add_skipped(name),
        }
    }

    async fn publish_undo(&self, role: Role, step: &str, life: u32) -> Result<(), Error> {
        let spec = match role {
            Role::OnFailure => self.workflow.failure_job(),
            Role::Compensation | Role::Step => self.steps.get(step).and_then(Step::compensation),
        };
        let Some(spec) = spec else { return Ok(()) };
        let mut results = PredecessorResults::default();
        if role == Role::Compensation {
            self.add_results(&mut results, step);
        }
        let at = StepRef { role, life, ..StepRef::step(&self.snapshot.workflow().id, step) };
        let job = spec.job(at, Some(&results), ORIGIN, self.workflow.is_tracked());
        self.publisher.publish(job).await.map(drop).map_err(|error| not_published(step, &error))
    }
}

async fn next(session: &mut Session, queue: &str) -> Result<(u64, bytes::Bytes), Error> {
    let delivery = session.next().await.map_err(|ended| Error::unavailable(queue, ended))?;
    Ok((delivery.tag, delivery.message.body))
}

fn not_started(error: &StartError) -> Error {
    Error::Setting { setting: "testing::workflow", reason: error.to_string() }
}

fn not_published(step: &str, error: &PublishError) -> Error {
    Error::Setting { setting: "testing::workflow", reason: format!("step {step:?}: {error}") }
}

#[cfg(test)]
#[path = "workflow_tests.rs"]
mod tests;
