//! Starts workflows, and changes those that have started.

use std::time::SystemTime;

use leveret::{
    time::{now_ms, unix_ms},
    workflow::{
        StepEnd, Workflow,
        engine::{Input, Refusal, Which},
    },
};
use leveret_store::{AppliedWorkflows, AuditStamp, InputOutcome, NewWorkflow, StoredWorkflow, WorkflowInput};
use serde_json::json;
use uuid::Uuid;

use super::{error::Error, status::WorkflowStatus};
use crate::{
    detached::run_detached,
    idempotency::{ClaimedIds, Idempotency},
    schema::checked,
    services::Services,
};

/// The time for which a request has its idempotency key.
const CLAIMED: std::time::Duration = std::time::Duration::from_secs(30);

/// A command of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Cancels waiting, delayed and running steps. Then compensates the steps that have succeeded.
    Cancel,
    /// Retries the failed jobs of all steps, or of one step.
    Retry(Option<String>),
    /// Lets the workflow go on without the failed jobs of all steps, or of one step.
    Skip(Option<String>),
    /// Starts no further steps.
    Pause,
    /// Starts steps again.
    Resume,
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry(_) => "retry",
            Self::Skip(_) => "skip",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    fn step(&self) -> Option<&str> {
        match self {
            Self::Retry(step) | Self::Skip(step) => step.as_deref(),
            Self::Cancel | Self::Pause | Self::Resume => None,
        }
    }

    fn input(self) -> Input {
        let which = |step: Option<String>| step.map_or(Which::All, Which::Step);
        match self {
            Self::Cancel => Input::Cancel,
            Self::Retry(step) => Input::Retry(which(step)),
            Self::Skip(step) => Input::Skip(which(step)),
            Self::Pause => Input::Pause,
            Self::Resume => Input::Resume,
        }
    }
}

impl Services {
    /// Starts a workflow, and returns its id once the store has it. The same definition under the same id is the same
    /// workflow.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Different`], [`Error::KeyReused`], [`Error::KeyInFlight`], [`Error::Unprepared`],
    /// [`Error::Store`]. After an error of the store the workflow may have started: start it again under the same id or
    /// with the same idempotency key.
    pub async fn start_workflow(&self, text: String, idempotency: Option<Idempotency>) -> Result<String, Error> {
        self.prepared().await.map_err(|reason| Error::Unprepared { reason })?;
        let services = self.clone();
        let workflow = checked(move || services.read_workflow(&text)).await;
        let workflow = workflow.ok_or_else(|| Error::Unprepared { reason: "no thread for checks".to_owned() })??;
        let id = workflow.workflow_id().map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
        let services = self.clone();
        let start = move |claimed: ClaimedIds| async move {
            // The id of an earlier request is used again, so that the workflow starts once.
            let id = claimed.ids.into_iter().next();
            let workflow = if let Some(id) = id { workflow.id(id) } else { workflow };
            Ok::<_, Error>(vec![services.start(workflow).await])
        };
        let fates = self.once(idempotency, vec![id], CLAIMED, start).await?;
        // An answer without an id is not that of a workflow.
        fates.into_iter().next().unwrap_or(Err(Error::KeyReused))
    }

    async fn start(&self, workflow: Workflow) -> Result<String, Error> {
        let new = NewWorkflow::new(workflow);
        let id = new.id().to_owned();
        let applied = self.apply(vec![WorkflowInput::Start(Box::new(new))]).await?;
        match applied.outcomes.first() {
            Some(InputOutcome::Conflict) => Err(Error::Different { id }),
            _ => Ok(id),
        }
    }

    /// Carries out a command on a workflow.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NoStep`], [`Error::Conflict`], [`Error::Store`].
    pub async fn command_workflow(&self, id: &str, command: Command, actor: &str) -> Result<(), Error> {
        let known = self.known_workflow(id).await?;
        if let Some(step) = command.step()
            && self.store.workflow_step(&known, step).await?.is_none()
        {
            return Err(Error::NoStep { id: id.to_owned(), step: step.to_owned() });
        }
        // The audit log comes first: it must have every command, and may have some that failed.
        let by = AuditStamp { actor, at: unix_ms(SystemTime::now()) };
        let detail = json!({ "workflow": id, "step": command.step() });
        self.store.audit(by, &format!("workflow_{}", command.name()), &detail).await?;
        let input = Box::new(command.input());
        let services = self.clone();
        let workflow = id.to_owned();
        let applied =
            run_detached(async move { services.apply(vec![WorkflowInput::Input { workflow, input }]).await }).await?;
        match applied.outcomes.first() {
            Some(InputOutcome::Refused(refusal)) => Err(self.refused(id, *refusal).await?),
            Some(InputOutcome::Unknown) => Err(Error::NotFound { id: id.to_owned() }),
            _ => Ok(()),
        }
    }

    async fn refused(&self, id: &str, refusal: Refusal) -> Result<Error, Error> {
        let status = WorkflowStatus::of(&self.known_workflow(id).await?.status());
        Ok(Error::Conflict { status, reason: refusal.to_string() })
    }

    pub(super) async fn known_workflow(&self, id: &str) -> Result<StoredWorkflow, Error> {
        let found = self.store.workflow(id).await?;
        found.ok_or_else(|| Error::NotFound { id: id.to_owned() })
    }

    /// Records the ends of steps that the broker dead-lettered, because no worker reports them.
    pub(crate) async fn end_steps(&self, ends: Vec<StepEnd>) -> Result<(), leveret_store::Error> {
        let inputs = ends.into_iter().map(|end| {
            let workflow = end.of.workflow.clone();
            WorkflowInput::Input { workflow, input: Box::new(Input::End(end)) }
        });
        self.apply(inputs.collect()).await.map(drop)
    }

    /// Applies inputs. The messages that follow are published by the task of the server, or at once by a process
    /// without it.
    pub(super) async fn apply(&self, inputs: Vec<WorkflowInput>) -> Result<AppliedWorkflows, leveret_store::Error> {
        let mut applied = self.store.apply_workflows(inputs, now_ms()).await?;
        self.workflow_metrics.count(&applied);
        self.waiters.wake(applied.changed.iter().map(|id| waiter_key(id)));
        for (id, failure) in &applied.alarms {
            tracing::error!(
                workflow_id = id.as_str(),
                job_id = failure.of.as_str(),
                error = failure.error.as_str(),
                "a job that compensates a workflow has failed: the workflow waits for an operator"
            );
        }
        if !applied.superseded.is_empty() {
            // A replay of an obsolete dead letter would run a job whose end the engine refuses.
            let by = AuditStamp { actor: "workflows", at: now_ms() };
            if let Err(error) = self.store.purge_superseded(&applied.superseded, by).await {
                let error = leveret::text::error_chain(&error);
                tracing::warn!(error, "cannot purge the dead letters of jobs that run again");
            }
        }
        let messages = std::mem::take(&mut applied.messages);
        self.hand_over(messages).await;
        Ok(applied)
    }
}

/// The name under which clients wait for a workflow.
pub(super) fn waiter_key(id: &str) -> String {
    format!("workflow {id}")
}
