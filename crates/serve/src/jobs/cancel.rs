//! Cancels a waiting or running job.

use std::time::SystemTime;

use leveret::{
    status_update::{StatusUpdate, Transition},
    time::{at_unix_ms, now_ms},
};
use leveret_store::{AuditStamp, JobState, TrackedJob};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{error::Error, task::Status};
use crate::{detached::run_detached, recorder::Reservation, services::Services};

/// The state of a job when it was cancelled, as far as the store knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelledWhile {
    /// The job was waiting, and will not start.
    Queued,
    /// The job was running. Its handler is notified, and the job may still succeed.
    Running,
}

impl Services {
    /// Cancels a job. When this returns the broker has confirmed the cancellation, and every worker is notified, also
    /// after restarts.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Conflict`] for a job that has ended, [`Error::StoreAway`], [`Error::Store`],
    /// [`Error::Publish`].
    pub async fn cancel(&self, id: &str, actor: &str) -> Result<CancelledWhile, Error> {
        let job = self.known(id).await?;
        if job.state.is_terminal() {
            let reason = "a task that has ended cannot be cancelled";
            return Err(Error::Conflict { status: Status::of(&job, now_ms()), reason });
        }
        let reservation = self.recorder.reserve(1).ok_or(Error::StoreAway)?;
        run_detached(self.clone().publish_cancel(job, actor.to_owned(), reservation)).await
    }

    async fn publish_cancel(
        self,
        job: TrackedJob,
        actor: String,
        reservation: Reservation,
    ) -> Result<CancelledWhile, Error> {
        // The audit log comes first: it must have every cancellation, and may have some that failed.
        let by = AuditStamp { actor: &actor, at: now_ms() };
        self.store.audit(by, "cancel", &json!({ "job": job.id })).await?;
        self.publisher.cancel(job.job_id()).await?;
        let cancelled = if job.state == JobState::Started { CancelledWhile::Running } else { CancelledWhile::Queued };
        let update = StatusUpdate {
            id: job.job_id(),
            job: job.job,
            queue: job.queue,
            origin: job.origin,
            label: job.label,
            priority: job.priority,
            attempt: job.attempt,
            hop: job.hop,
            enqueued_at: Some(at_unix_ms(job.created_at)),
            at: SystemTime::now(),
            worker: None,
            transition: Transition::CancelRequested,
        };
        self.recorder.record(vec![update], reservation).await;
        Ok(cancelled)
    }
}
