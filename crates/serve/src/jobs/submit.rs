//! Submits jobs: each is checked, published and confirmed, then recorded as queued.
//!
//! From the first publish on, a request completes also when its client has disconnected, so that every published job is
//! recorded.

use std::{
    collections::HashSet,
    future::IntoFuture,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use leveret::{NewJob, PublishError, catalogue::CatalogueEntry, status_update::StatusUpdate};
use uuid::Uuid;

use super::{
    check::NO_PAYLOAD,
    error::Error,
    submission::{Due, Submission},
};
use crate::{
    field_error::FieldError,
    idempotency::{ClaimedIds, Idempotency},
    recorder::Reservation,
    schema::{CheckBudget, checked},
    services::Services,
};

/// The greatest number of submissions in one request.
pub const MOST_AT_ONCE: usize = 1000;
/// The time limit of a request beside its publishes, which have their own.
const CLAIM_MARGIN: Duration = Duration::from_secs(30);

/// A valid submission, and its catalogue entry.
struct CheckedSubmission {
    submission: Submission,
    entry: Arc<CatalogueEntry>,
}

impl Services {
    /// Submits a job, and returns its id once the broker has confirmed it.
    ///
    /// # Errors
    ///
    /// As [`submit_all`](Self::submit_all), and [`Error::Publish`].
    pub async fn submit(&self, submission: Submission, idempotency: Option<Idempotency>) -> Result<String, Error> {
        let results = self.submit_all(vec![submission], idempotency).await;
        let unmarked = |mut field_error: FieldError| {
            field_error.index = None;
            field_error
        };
        let results = results.map_err(|error| match error {
            Error::Invalid { field_errors } => {
                Error::Invalid { field_errors: field_errors.into_iter().map(unmarked).collect() }
            }
            other => other,
        });
        Ok(results?.pop().unwrap_or(Err(PublishError::Closed))?)
    }

    /// Submits up to [`MOST_AT_ONCE`] jobs, pipelined, and returns the result of each in their order. If one of them is not
    /// valid, none is published.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::KeyReused`], [`Error::KeyInFlight`], [`Error::StoreAway`], [`Error::Store`],
    /// [`Error::Unprepared`]: nothing was published.
    pub async fn submit_all(
        &self,
        submissions: Vec<Submission>,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<Result<String, PublishError>>, Error> {
        if submissions.len() > MOST_AT_ONCE {
            return Err(Error::invalid(FieldError::new("", format!("must have at most {MOST_AT_ONCE} items"))));
        }
        self.prepared().await.map_err(|reason| Error::Unprepared { reason })?;
        let services = self.clone();
        let checked = checked(move || services.check_all(submissions)).await;
        let checked = checked.ok_or_else(|| Error::Unprepared { reason: "no thread for checks".to_owned() })??;
        let reservation = self.recorder.reserve(checked.len()).ok_or(Error::StoreAway)?;
        let ids = checked.iter().map(|_| Uuid::now_v7().to_string()).collect();
        let lease = self.broker.config().publish_timeout + CLAIM_MARGIN;
        let services = self.clone();
        self.once(idempotency, ids, lease, move |claimed| services.accept(checked, claimed, reservation)).await
    }

    fn check_all(&self, submissions: Vec<Submission>) -> Result<Vec<CheckedSubmission>, Error> {
        let (mut checked, mut field_errors) = (Vec::with_capacity(submissions.len()), Vec::new());
        let mut budget = CheckBudget::default();
        for (index, submission) in submissions.into_iter().enumerate() {
            match self.check(&submission, &mut budget) {
                Ok(entry) => checked.push(CheckedSubmission { submission, entry }),
                Err(found) => field_errors.extend(found.into_iter().map(|error| error.of_item(index))),
            }
        }
        if field_errors.is_empty() { Ok(checked) } else { Err(Error::Invalid { field_errors }) }
    }

    async fn accept(
        self,
        checked: Vec<CheckedSubmission>,
        ClaimedIds { ids, is_resumed }: ClaimedIds,
        reservation: Reservation,
    ) -> Result<Vec<Result<String, PublishError>>, Error> {
        let mut published = HashSet::new();
        if is_resumed {
            // The jobs that the earlier request published are not published again.
            published.extend(self.store.jobs_by_ids(&ids).await?.into_iter().map(|job| job.id));
        }
        let at = SystemTime::now();
        let jobs = checked.into_iter().zip(&ids).map(|(checked, id)| checked.into_job().id(id).into_queued(at));
        let (jobs, updates): (Vec<NewJob>, Vec<StatusUpdate>) = jobs.unzip();
        let publishes = jobs.into_iter().zip(&ids).map(|(job, id)| {
            let publish = (!published.contains(id)).then(|| self.publisher.publish(job));
            let id = id.clone();
            async move {
                if let Some(publish) = publish { publish.into_future().await.map(drop).map(|()| id) } else { Ok(id) }
            }
        });
        let window = usize::from(self.broker.config().publish_window.get());
        let results: Vec<_> = stream::iter(publishes.collect::<Vec<_>>()).buffered(window).collect().await;
        let queued = updates.into_iter().zip(&results).filter(|(_, fate)| fate.is_ok()).map(|(mut update, _)| {
            // The earlier request chose the origin of a job that it published.
            update.origin = update.origin.filter(|_| !published.contains(update.id.as_str()));
            update
        });
        let queued: Vec<_> = queued.collect();
        if !queued.is_empty() {
            self.recorder.record(queued, reservation).await;
        }
        Ok(results)
    }
}

impl CheckedSubmission {
    fn into_job(self) -> NewJob {
        let Self { submission, entry } = self;
        let payload = submission.payload.as_ref().map_or(NO_PAYLOAD, |payload| payload.get());
        let mut job = NewJob::raw(entry.job.clone(), entry.queue.clone(), payload).track();
        if entry.lanes {
            job = job.lanes();
        }
        if let Some(name) = submission.name {
            job = job.label(name);
        }
        if let Some(priority) = submission.priority {
            job = job.priority(priority);
        }
        if let Some(expires_in) = submission.expires_in {
            job = job.expires(expires_in);
        }
        match submission.due {
            Due::Now => job,
            Due::After(delay) => job.delay(delay),
            Due::At(ms) => job.at(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
        }
    }
}
