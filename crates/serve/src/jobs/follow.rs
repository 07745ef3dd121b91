//! Waits for a job's end, or for each change on the way there.

use std::time::Duration;

use leveret_store::State;
use tokio::time::{Instant, timeout_at};

use super::{Error, Task};
use crate::{services::Services, time::now_ms, waiters::Waiter};

/// A job that is followed to its end; see [`Services::follow`].
#[derive(Debug)]
pub struct Following {
    services: Services,
    waiter: Waiter,
    id: String,
    last: Option<String>,
    ended: bool,
}

impl Services {
    /// Waits until a job is at its end, but not longer than `within`, and returns how it is then.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::TooManyWait`], [`Error::Store`].
    pub async fn wait(&self, id: &str, within: Duration) -> Result<Task, Error> {
        let deadline = Instant::now() + within;
        // Before the first look, so that no change comes between.
        let waiter = self.waiters.watch(id).ok_or(Error::TooManyWait)?;
        while !is_end(self.known(id).await?.state) {
            let may_be_news = timeout_at(deadline, waiter.news()).await;
            if may_be_news != Ok(true) {
                break;
            }
        }
        self.task(id).await
    }

    /// Follows a job: each time it has changed, it is told as it is then. Who has been told before gives the
    /// [version](Task::version) of the last time, and is not told that again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::TooManyWait`], [`Error::Store`].
    pub async fn follow(&self, id: &str, told: Option<&str>) -> Result<Following, Error> {
        let waiter = self.waiters.watch(id).ok_or(Error::TooManyWait)?;
        let job = self.known(id).await?;
        let ended = is_end(job.state) && told == Some(Task::new(job, now_ms()).version().as_str());
        let last = told.map(str::to_owned);
        Ok(Following { services: self.clone(), waiter, id: id.to_owned(), last, ended })
    }
}

impl Following {
    /// Whether the job is at its end and that was told: there is nothing more to follow.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended
    }

    /// The job as it is now, if that was not told, or else after its next change. None after its end, when it was
    /// deleted, or when the server stops. While the store is away this waits.
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
                Err(error) => tracing::debug!(error = leveret_store::chain(&error), "the store is away, trying again"),
            }
            if !self.waiter.news().await {
                return None;
            }
        }
        None
    }
}

/// A job that waits and is cancelled is at its end for all who wait for it, though the broker may keep it for years.
fn is_end(state: State) -> bool {
    state.is_terminal() || state == State::CancelRequested
}
