//! Waits for a workflow's end, or for each change until then.

use std::time::Duration;

use leveret::text::hex;
use leveret_store::StoredWorkflow;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

use super::{error::Error, operate::waiter_key, view::WorkflowView};
use crate::{services::Services, waiters::Waiter};

/// The changes of a workflow until its end; see [`Services::follow_workflow`].
#[derive(Debug)]
pub struct FollowingWorkflow {
    services: Services,
    waiter: Waiter,
    id: String,
    last: Option<String>,
    /// Its row at the last look, and the time of that look.
    seen: Option<(StoredWorkflow, Instant)>,
    ended: bool,
}

/// The longest time without a look at the steps. A worker that starts one changes no row of the workflow.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The time in which the definition of an awaited workflow arrives from the broker, if the server is not behind.
const ARRIVES_WITHIN: Duration = Duration::from_millis(250);

impl WorkflowView {
    /// A version of the workflow's state: it changes with the state, and is the same for all servers on one store.
    #[must_use]
    pub fn version(&self) -> String {
        let digest = Sha256::digest(serde_json::to_string(self).unwrap_or_default());
        format!("{}/{}", self.updated_at, hex(&digest[..8]))
    }
}

impl Services {
    /// Waits until a workflow ends, but not longer than `within`, and returns its state then. An unknown workflow may
    /// still be in the broker, so it is waited for too, but only for a moment.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::TooManyWait`], [`Error::Store`].
    pub async fn wait_for_workflow(&self, id: &str, within: Duration) -> Result<WorkflowView, Error> {
        let deadline = Instant::now() + within;
        // Registered before the first query, so that no change is missed between them.
        let waiter = self.waiters.watch(&waiter_key(id)).ok_or(Error::TooManyWait)?;
        self.wait_until(id, &waiter, deadline.min(Instant::now() + ARRIVES_WITHIN), |_| true).await?;
        self.known_workflow(id).await?;
        let has_ended = |workflow: &StoredWorkflow| workflow.status().is_end();
        self.wait_until(id, &waiter, deadline, has_ended).await?;
        self.workflow(id).await
    }

    /// Waits until the store has the workflow in this state, until the deadline, or until the server stops.
    async fn wait_until(
        &self,
        id: &str,
        waiter: &Waiter,
        deadline: Instant,
        is_so: impl Fn(&StoredWorkflow) -> bool,
    ) -> Result<(), Error> {
        while !self.store.workflow(id).await?.is_some_and(|workflow| is_so(&workflow)) {
            if timeout_at(deadline, waiter.update()).await != Ok(true) {
                break;
            }
        }
        Ok(())
    }

    /// Follows a workflow: yields its state after each change. A client that followed before gives the last
    /// [version](WorkflowView::version) that it has, and does not receive it again. An unknown workflow is waited for
    /// as by [`wait_for_workflow`](Self::wait_for_workflow).
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::TooManyWait`], [`Error::Store`].
    pub async fn follow_workflow(&self, id: &str, last: Option<&str>) -> Result<FollowingWorkflow, Error> {
        let waiter = self.waiters.watch(&waiter_key(id)).ok_or(Error::TooManyWait)?;
        self.wait_until(id, &waiter, Instant::now() + ARRIVES_WITHIN, |_| true).await?;
        let workflow = self.workflow(id).await?;
        let ended = workflow.status.is_end() && last == Some(workflow.version().as_str());
        let last = last.map(str::to_owned);
        Ok(FollowingWorkflow { services: self.clone(), waiter, id: id.to_owned(), last, seen: None, ended })
    }
}

impl FollowingWorkflow {
    /// Returns whether the workflow has ended and its last state was received.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended
    }

    /// Returns the workflow's state if it was not returned before, or else the state after the next change. Returns
    /// `None` after the workflow's end, when it was deleted, or when the server stops. Waits while the store is
    /// unreachable.
    pub async fn next(&mut self) -> Option<WorkflowView> {
        while !self.ended {
            match self.look().await {
                Ok(None) => {}
                Ok(Some(workflow)) => {
                    self.ended = workflow.status.is_end();
                    let version = Some(workflow.version());
                    if version != self.last {
                        self.last = version;
                        return Some(workflow);
                    }
                }
                Err(Error::NotFound { .. }) => return None,
                Err(error) => {
                    tracing::debug!(error = leveret::text::error_chain(&error), "the store is unreachable, retrying");
                }
            }
            if !self.waiter.update().await {
                return None;
            }
        }
        None
    }

    /// Reads the workflow, unless its row is as before.
    async fn look(&mut self) -> Result<Option<WorkflowView>, Error> {
        let row = self.services.known_workflow(&self.id).await?;
        let is_seen = |(seen, at): &(StoredWorkflow, Instant)| *seen == row && at.elapsed() < LOOK_EVERY;
        if self.seen.as_ref().is_some_and(is_seen) {
            return Ok(None);
        }
        let workflow = self.services.workflow(&self.id).await?;
        self.seen = Some((row, Instant::now()));
        Ok(Some(workflow))
    }
}
