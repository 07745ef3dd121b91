//! Workflows in the outbox: they are rows of its table, and a relay starts them.

use std::time::SystemTime;

use leveret::{
    JobId, JobOptions,
    workflow::{StartError, Workflow, WorkflowError},
};

use super::enqueue::{Outbox, Row, insert};
use crate::{Error, Result, db::Connection};

/// The job's name in the row of a workflow, whose payload is the definition.
pub(super) const START: &str = leveret::workflow::START;
/// The text in place of a queue in the row of a workflow.
const QUEUE: &str = "workflows";

impl Outbox {
    /// Writes a workflow in a transaction, and returns its id. A [`Relay`](crate::Relay) starts the workflow if, and only if,
    /// the transaction commits.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize, leveret::Job)] #[job(name = "charge", queue = "money")]
    /// # struct Charge { cents: u64 }
    /// # #[derive(serde::Serialize, serde::Deserialize, leveret::Job)] #[job(name = "ship", queue = "parcels")]
    /// # struct Ship;
    /// # async fn doc(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use leveret::workflow::Workflow;
    /// use leveret_sql::Outbox;
    ///
    /// let order = Workflow::new("order").id("order-17").step("charge", &Charge { cents: 5 }).step("ship", &Ship).after("charge");
    /// let mut tx = pool.begin().await?;
    /// // … the order's row, in the same transaction …
    /// Outbox::start(&mut tx, &order).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidWorkflow`] for a workflow that could never be started, and otherwise as [`enqueue`](Self::enqueue),
    /// whose time limit and cancel safety hold here too.
    pub async fn start(on: &mut impl Connection, workflow: &Workflow) -> Result<String> {
        workflow.check().and_then(|()| workflow.check_queues())?;
        let id = workflow.workflow_id().map_or_else(|| JobId::mint().as_str().to_owned(), str::to_owned);
        let payload = workflow.clone().id(id.as_str()).to_json()?;
        let job = (JobId::from(id.as_str()), START.into(), QUEUE.into(), payload);
        let row = Row::new(job, &JobOptions::default(), None, SystemTime::now())?;
        insert(on, vec![row]).await?;
        Ok(id)
    }
}

impl From<WorkflowError> for Error {
    fn from(error: WorkflowError) -> Self {
        Self::InvalidWorkflow(error)
    }
}

/// The workflow of a row.
///
/// # Errors
///
/// The reason why its definition does not decode.
pub(super) fn workflow(payload: &[u8]) -> std::result::Result<Workflow, String> {
    serde_json::from_slice(payload).map_err(|error| format!("the definition of the workflow does not decode: {error}"))
}

/// Returns the error of the publish, or the reason why the workflow can never be started.
pub(super) fn failure(error: StartError) -> std::result::Result<leveret::PublishError, String> {
    match error {
        StartError::Publish(error) => Ok(error),
        other => Err(other.to_string()),
    }
}
