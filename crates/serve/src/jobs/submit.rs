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
use leveret::{NewJob, PublishError, catalogue::CatalogueEntry, status_update::StatusUpdate, time::now_ms};
use leveret_store::{IdempotencyClaim, IdempotencyRequest};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    check::NO_PAYLOAD,
    error::Error,
    submission::{Due, Submission},
};
use crate::{
    detached::run_detached,
    field_error::FieldError,
    schema::{CheckBudget, checked},
    services::Services,
};

/// The greatest number of submissions in one request.
pub const MOST_AT_ONCE: usize = 1000;
/// The time limit of a request beside its publishes, which have their own.
const CLAIM_MARGIN: Duration = Duration::from_secs(30);

/// The identity of a request: a second request with the same one gets the response of the first.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The client's key.
    pub key: String,
    /// A digest of the body: another body under the same key is an error.
    pub body_hash: String,
}

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
        let services = self.clone();
        run_detached(services.accept(checked, idempotency)).await
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
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<Result<String, PublishError>>, Error> {
        let reservation = self.recorder.reserve(checked.len()).ok_or(Error::StoreAway)?;
        let mut ids: Vec<_> = checked.iter().map(|_| Uuid::now_v7().to_string()).collect();
        let mut published = HashSet::new();
        if let Some(idempotency) = &idempotency {
            match self.claim(idempotency, &ids).await? {
                IdempotencyClaim::New { task_ids } if task_ids == ids => {}
                IdempotencyClaim::New { task_ids } => {
                    // An earlier request was interrupted. The jobs that it published are not published again.
                    published.extend(self.store.jobs_by_ids(&task_ids).await?.into_iter().map(|job| job.id));
                    ids = task_ids;
                }
                IdempotencyClaim::Done(answer) => return Ok(ids_of(&answer).into_iter().map(Ok).collect()),
                IdempotencyClaim::InFlight => return Err(Error::KeyInFlight),
                IdempotencyClaim::Other => return Err(Error::KeyReused),
            }
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
            // The interrupted request chose the origin of a job that it published.
            update.origin = update.origin.filter(|_| !published.contains(update.id.as_str()));
            update
        });
        let queued: Vec<_> = queued.collect();
        if !queued.is_empty() {
            self.recorder.record(queued, reservation).await;
        }
        if let Some(idempotency) = &idempotency {
            self.settle_claim(idempotency, &results).await;
        }
        Ok(results)
    }

    async fn claim(&self, idempotency: &Idempotency, ids: &[String]) -> Result<IdempotencyClaim, Error> {
        let claiming = IdempotencyRequest { key: &idempotency.key, body_hash: &idempotency.body_hash, task_ids: ids };
        let lease = self.broker.config().publish_timeout + CLAIM_MARGIN;
        Ok(self.store.claim(&claiming, now_ms(), lease).await?)
    }

    /// Stores the response, or releases the key for another try. If this fails, the key's lease ends by itself.
    async fn settle_claim(&self, idempotency: &Idempotency, results: &[Result<String, PublishError>]) {
        let ids: Option<Vec<_>> = results.iter().map(|fate| fate.as_ref().ok()).collect();
        let settled = match ids {
            Some(ids) => self.store.finish(&idempotency.key, &json!(ids)).await,
            None => self.store.release(&idempotency.key).await,
        };
        if let Err(error) = settled {
            tracing::warn!(
                error = leveret::text::error_chain(&error),
                "cannot settle an idempotency key: it stays claimed until its lease ends"
            );
        }
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

fn ids_of(answer: &Value) -> Vec<String> {
    let ids = answer.as_array().into_iter().flatten();
    ids.filter_map(|id| id.as_str().map(str::to_owned)).collect()
}
