//! Checks a submission against the catalogue: job, queue, payload. A job that is not in the catalogue is not published: no
//! worker would run it, and its name would stay in the metrics.

use std::sync::Arc;

use leveret::catalogue::CatalogueEntry;

use super::submission::Submission;
use crate::{
    field_error::FieldError,
    schema::{CheckBudget, SchemaCheck},
    services::Services,
};

/// The payload of a submission without one.
pub(super) const NO_PAYLOAD: &str = "{}";

impl Services {
    /// The catalogue entry of a submission.
    pub(super) fn check(
        &self,
        submission: &Submission,
        budget: &mut CheckBudget,
    ) -> Result<Arc<CatalogueEntry>, Vec<FieldError>> {
        let entry = self.entry(submission).map_err(|field_error| vec![field_error])?;
        let payload = submission.payload.as_ref().map_or(NO_PAYLOAD, |payload| payload.get());
        match self.schemas.check(&entry, payload, budget) {
            SchemaCheck::Valid | SchemaCheck::Unchecked => Ok(entry),
            SchemaCheck::Invalid(field_errors) => Err(field_errors),
        }
    }

    fn entry(&self, submission: &Submission) -> Result<Arc<CatalogueEntry>, FieldError> {
        let Some(job) = submission.job.as_deref().or(self.default_job.as_deref()) else {
            return Err(FieldError::new("/job", "must be given: this server has no default job"));
        };
        let Some(found) = self.catalogue.find(job) else {
            let entries = self.catalogue.entries();
            return Err(FieldError::unknown(
                "/job",
                "no worker runs a job",
                job,
                entries.iter().filter(|entry| !entry.event).map(|entry| entry.job.as_str()),
            ));
        };
        let Some(queue) = submission.queue.as_deref().filter(|queue| *queue != found.queue) else { return Ok(found) };
        let entries = self.catalogue.entries();
        let mut of_job = entries.iter().filter(|entry| entry.job == job && !entry.event);
        let on_queue = of_job.clone().find(|entry| entry.queue == queue);
        let no_worker = format!("no worker consumes {job:?} from a queue");
        on_queue.cloned().ok_or_else(|| {
            FieldError::unknown("/queue", &no_worker, queue, of_job.by_ref().map(|entry| entry.queue.as_str()))
        })
    }
}
