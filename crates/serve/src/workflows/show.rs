//! Finds workflows, their steps and the results of their jobs.

use std::collections::{BTreeMap, BTreeSet};

use leveret::workflow::engine::StepPhase;
use leveret_store::{Cursor, JobState, Page, StoredStep, StoredWorkflow, WorkflowFilter};

use super::{
    error::Error,
    status::{StepStatus, WorkflowStatus},
    view::{JobResult, StepView, Steps, WorkflowProgress, WorkflowView},
};
use crate::services::Services;

/// The most steps of one response.
pub const MOST_STEPS: u32 = 1_000;
/// The most queues whose consumers one response looks up.
const MOST_QUEUES: usize = 20;
/// The most jobs of a group whose status one response looks up.
const MOST_ASKED: u32 = 20;

impl Services {
    /// Shows a workflow, with its first steps.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn workflow(&self, id: &str) -> Result<WorkflowView, Error> {
        let workflow = self.known_workflow(id).await?;
        let jobs = self.store.workflow_first_jobs(&workflow, 0, MOST_STEPS).await?;
        let jobs: BTreeMap<_, _> = jobs.into_iter().map(|job| (job.step, job)).collect();
        let steps = self.store.workflow_steps(&workflow, 0, MOST_STEPS).await?;
        let started = self.started(&workflow, &steps).await?;
        let (mut shown, sums) = (Vec::with_capacity(steps.len()), self.store.workflow_sums(&workflow).await?);
        for step in steps {
            let (name, position) = (step.state.name.clone(), i64::from(step.position));
            let is_started = started.contains(&name);
            shown.push((name, StepView::new(&workflow, step, jobs.get(&position), is_started)));
        }
        let progress = WorkflowProgress::of(&workflow, sums);
        let mut view = WorkflowView { progress: Some(progress), ..WorkflowView::new(&workflow) };
        self.show_consumers(&mut view, &mut shown).await;
        view.steps = Some(Steps(shown));
        Ok(view)
    }

    /// Marks steps as waiting if their queue has no consumer. Marks the workflow as waiting if no other step is pending
    /// or running.
    async fn show_consumers(&self, workflow: &mut WorkflowView, steps: &mut [(String, StepView)]) {
        let is_pending = |step: &StepView| step.status == StepStatus::Pending && step.waiting_for.is_none();
        let queue = |step: &StepView| {
            step.queue.clone().or_else(|| self.catalogue.find(&step.job).map(|entry| entry.queue.clone()))
        };
        let pending = steps.iter().filter(|(_, step)| is_pending(step));
        let queues: BTreeSet<_> = pending.filter_map(|(_, step)| queue(step)).take(MOST_QUEUES).collect();
        let without = self.consumers.without(&self.broker, queues).await;
        for (_, step) in steps.iter_mut().filter(|(_, step)| is_pending(step)) {
            if let Some(queue) = queue(step).filter(|queue| without.contains(queue)) {
                (step.status, step.waiting_for) = (StepStatus::Waiting, Some(queue));
            }
        }
        let is_open = |step: &StepView| matches!(step.status, StepStatus::Pending | StepStatus::Running);
        let waits_for = steps.iter().find_map(|(_, step)| step.waiting_for.clone());
        if workflow.status == WorkflowStatus::Running
            && !steps.iter().any(|(_, step)| is_open(step))
            && waits_for.is_some()
        {
            workflow.status = WorkflowStatus::Waiting;
            (workflow.waiting_for, workflow.queue) = (Some("queue".to_owned()), waits_for);
        }
    }

    /// Returns the names of the steps of which a worker has received a job, by their status updates. For a group only
    /// its first jobs count.
    async fn started(&self, workflow: &StoredWorkflow, steps: &[StoredStep]) -> Result<BTreeSet<String>, Error> {
        let running = steps.iter().filter(|step| step.state.phase == StepPhase::Running);
        let jobs = running.flat_map(|step| {
            let name = step.state.name.as_str();
            (0..step.state.size.min(MOST_ASKED))
                .map(move |member| (step.state.job(&workflow.state.id, member, 1), name))
        });
        let names: BTreeMap<_, _> = jobs.map(|(job, name)| (job.to_string(), name)).collect();
        if names.is_empty() {
            return Ok(BTreeSet::new());
        }
        let ids: Vec<_> = names.keys().collect();
        let has_begun = |state: JobState| !matches!(state, JobState::Queued | JobState::CancelRequested);
        let jobs = self.store.jobs_by_ids(&ids).await?;
        let begun = jobs.iter().filter(|job| has_begun(job.state)).filter_map(|job| names.get(&job.id));
        Ok(begun.map(|name| (*name).to_owned()).collect())
    }

    /// Lists one page of the workflows that match, newest first, without their steps.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn workflows(
        &self,
        filter: &WorkflowFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<WorkflowView>, Error> {
        let Page { items, next } = self.store.workflows(filter, after, limit).await?;
        Ok(Page { items: items.iter().map(WorkflowView::new).collect(), next })
    }

    /// Lists one page of the ends of a step's jobs, with their results, in the order of the group.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NoStep`], [`Error::Store`].
    pub async fn workflow_results(
        &self,
        id: &str,
        step: &str,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<JobResult>, Error> {
        let workflow = self.known_workflow(id).await?;
        let found = self.store.workflow_step(&workflow, step).await?;
        let step = found.ok_or_else(|| Error::NoStep { id: id.to_owned(), step: step.to_owned() })?;
        let Page { items, next } = self.store.workflow_jobs(&workflow, &step, after, limit).await?;
        Ok(Page { items: items.iter().map(|job| JobResult::new(id, &step, job)).collect(), next })
    }
}
