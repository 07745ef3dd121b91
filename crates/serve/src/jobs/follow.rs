//! Waits for a job's end, or for each change until then.

use std::time::Duration;

use leveret::time::now_ms;
use leveret_store::JobState;
use tokio::time::{Instant, timeout_at};

use super::{error::Error, task::Task};
use crate::{services::Services, waiters::Waiter};

/// The changes of a job until its end; see [`Services::follow`].
#[derive(Debug)]
pub struct Following {
    services: Services,
    waiter: Waiter,
    id: String,
    last: Option<String>,
    ended: bool,
}

impl Services {
    /// Waits until a job ends, but not longer than `within`, and returns its state then.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::TooManyWait`], [`Error::Store`].
    pub async fn wait(&self, id: &str, within: Duration) -> Result<Task, Error> {
        let deadline = Instant::now() + within;
        // Registered before the first query, so that no change is missed between them.
        let waiter = self.waiters.watch(id).ok_or(Error::TooManyWait)?;
        while !is_end(self.known(id).await?.state) {
            let may_be_update = timeout_at(deadline, waiter.update()).await;
            if may_be_update != Ok(true) {
                break;
            }
        }
        self.task(id).await
    }

    /// Follows a job: yields its state after each change. A client that followed before gives the last
    /// [version](Task::version) that it has, and does not receive it again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::TooManyWait`], [`Error::Store`].
    pub async fn follow(&self, id: &str, last: Option<&str>) -> Result<Following, Error> {
        let waiter = self.waiters.watch(id).ok_or(Error::TooManyWait)?;
        let job = self.known(id).await?;
        let ended = is_end(job.state) && last == Some(Task::new(job, now_ms()).version().as_str());
        let last = last.map(str::to_owned);
        Ok(Following { services: self.clone(), waiter, id: id.to_owned(), last, ended })
    }
}

impl Following {
    /// Returns whether the job has ended and its last state was received.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended
    }

    /// The job's state now if it was not yielded yet, or else after its next change. None after the job's end, when it was
    /// deleted, or when the server stops. Waits while the store is unreachable.
    pub async fn next(&mut self) -> Option<Task> {
        while !self.ended {
            match self.services.known(&self.id).await {
                Ok(job) => {
                    self.ended = is_end(job.state);
                    let task = Task::new(job, now_ms());
                    let version = Some(task.version());
                    if version != self.last {
                        self.last = version;
                        return Some(task);
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
}

/// Returns whether a job has ended for its followers. A cancelled job has, although the broker may keep its message for
/// years.
fn is_end(state: JobState) -> bool {
    state.is_terminal() || state == JobState::CancelRequested
}
