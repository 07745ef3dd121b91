//! Tracked jobs: submit, find, wait for, cancel and retry them. The module has no HTTP, so that commands use it too.
//!
//! In the order of a job's life: `submission` (the request), `check` (against the catalogue and `schema`), `submit`, `task`
//! (the response), `follow`, `cancel`, `retry`.

mod cancel;
mod check;
mod error;
mod follow;
mod retry;
mod submission;
mod submit;
mod task;

use leveret::time::now_ms;
use leveret_store::{Cursor, JobFilter, Page};

pub(crate) use self::submission::SubmissionFields;
pub use self::{
    cancel::CancelledWhile,
    error::Error,
    follow::Following,
    submission::{Due, Submission},
    submit::MOST_AT_ONCE,
    task::{Progress, Status, Task, TimelineStep},
};
use crate::services::Services;
pub use crate::{field_error::FieldError, idempotency::Idempotency};

impl Services {
    /// Finds one tracked job, with its timeline.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn task(&self, id: &str) -> Result<Task, Error> {
        let (job, timeline) = (self.known(id).await?, self.store.timeline(id).await?);
        Ok(Task::new(job, now_ms()).with_timeline(timeline))
    }

    /// Lists one page of the tracked jobs that match, newest first, without their results and timelines.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn tasks(&self, filter: &JobFilter, after: Option<&Cursor>, limit: u32) -> Result<Page<Task>, Error> {
        let Page { items, next } = self.store.jobs(filter, after, limit).await?;
        let now = now_ms();
        let short = |job| Task { result: None, ..Task::new(job, now) };
        Ok(Page { items: items.into_iter().map(short).collect(), next })
    }

    pub(crate) async fn known(&self, id: &str) -> Result<leveret_store::TrackedJob, Error> {
        self.store.job(id).await?.ok_or_else(|| Error::NotFound { id: id.to_owned() })
    }
}
