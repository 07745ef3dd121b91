//! Starts workflows: publishes their definitions.

use futures_util::future::BoxFuture;

use crate::{
    error::PublishError,
    job::JobId,
    message::Message,
    publish::publisher::Publisher,
    topology::{Target, Topology},
    workflow::{START, Workflow, WorkflowError},
};

/// The reason why a workflow was not started.
///
/// ```
/// # use leveret::{PublishError, workflow::StartError};
/// fn may_be_started(error: &StartError) -> bool {
///     matches!(error, StartError::Publish(PublishError::Uncertain { .. }))
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The definition has a fault. Nothing was sent.
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
    /// The publish was not confirmed. After [`PublishError::Uncertain`] the workflow may have started.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Publisher {
    /// Starts a workflow, and returns its id.
    ///
    /// Returns once the broker has confirmed the definition. The definition waits in the queue `leveret.v1.workflows`
    /// until a server (`leveret serve`) reads it. This call does not use the server's store. A second start with the
    /// same id and the same definition has no effect; with another definition it is a conflict, which the server
    /// reports.
    ///
    /// ```no_run
    /// use leveret::workflow::Workflow;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "charge", queue = "money")] struct Charge { cents: u64 }
    /// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "ship", queue = "parcels")] struct Ship;
    ///
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::workflow::StartError> {
    /// let workflow = Workflow::new("order")
    ///     .id("order-17")
    ///     .step("charge", &Charge { cents: 500 })
    ///     .step("ship", &Ship).after("charge");
    /// assert_eq!(publisher.start(&workflow).await?, "order-17");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StartError::Workflow`] for a fault of the definition, and otherwise the errors of a publish. After
    /// [`PublishError::Uncertain`], start the workflow again with the id that the error has.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it completes, the workflow may or may not be started.
    pub async fn start(&self, workflow: &Workflow) -> Result<String, StartError> {
        workflow.check()?;
        workflow.check_queues()?;
        let id = workflow.id.clone().unwrap_or_else(|| JobId::mint().as_str().to_owned());
        let body = match &workflow.id {
            Some(_) => workflow.to_json()?,
            None => workflow.clone().id(id.as_str()).to_json()?,
        };
        let message = Message::new(START, &JobId::from(id.as_str()), body, self.now_ms());
        // Boxed, so that the compiler of a user's crate need not look through the whole publish.
        let sent: BoxFuture<'_, _> =
            Box::pin(self.send_job(START, Target::Workflows, JobId::from(id.as_str()), (message, false)));
        sent.await.map_err(|error| match error {
            // Its target has a short name, the same in all namespaces.
            PublishError::Unroutable { .. } => {
                PublishError::Unroutable { queue: Topology::new(&self.broker().config().namespace).workflows() }
            }
            other => other,
        })?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Broker, NewJob};

    #[tokio::test]
    async fn a_start_publishes_the_definition_under_the_id_that_it_returns() {
        let broker = Broker::memory();
        let step = || NewJob::raw("task", "tasks", r#"{"n": 18446744073709551616}"#);
        let id = broker.publisher().start(&Workflow::new("w").step("a", step())).await.unwrap();
        let mut session = broker.transport().open_raw("leveret.v1.workflows", 10).await.unwrap();
        let message = session.next().await.ok().unwrap().message;
        assert_eq!((message.id(), message.job_name()), (Some(id.as_str()), Some(START)));
        let read: Workflow = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(read.workflow_id(), Some(id.as_str()));
        let payload = read.step_list().iter().next().unwrap().1.jobs().next().unwrap();
        assert_eq!(payload.payload(), r#"{"n": 18446744073709551616}"#, "numbers stay as they are");
    }

    #[tokio::test]
    async fn a_definition_with_a_fault_is_not_published() {
        let broker = Broker::memory();
        let publisher = broker.publisher();
        let job = || NewJob::raw("task", "tasks", "{}");
        let error = publisher.start(&Workflow::new("w").step("a", job()).after("b")).await.unwrap_err();
        assert!(matches!(error, StartError::Workflow(WorkflowError::UnknownStep { .. })), "{error}");
        let unknown: Workflow = serde_json::from_str(r#"{"name": "w", "steps": {"a": {"job": "task"}}}"#).unwrap();
        let error = publisher.start(&unknown).await.unwrap_err();
        assert!(matches!(error, StartError::Workflow(WorkflowError::NoQueue { .. })), "{error}");
    }
}
