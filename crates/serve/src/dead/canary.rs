//! The first few of a replay: what becomes of them says whether the rest should follow.

use std::time::Duration;

use leveret_store::{Job, Letter, Store, TimelineEntry, fingerprint};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{error::Error, letter};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A tracked job that was replayed.
#[derive(Debug)]
pub(super) struct Canary {
    job: String,
    job_id: String,
    /// The queue that it was replayed to.
    queue: String,
    /// Tells it from other jobs that bear its id.
    origin: String,
    /// Which copy of the job it is: what happened to those before it is over.
    hop: u32,
    fingerprint: String,
}

enum CanaryOutcome {
    Open,
    Passed,
    Failed(String),
}

impl Canary {
    /// None for a letter without a job id, or that cannot be read: it cannot be followed. `queue` is another queue than the
    /// one that the letter came from.
    pub(super) fn of(letter: &Letter, queue: Option<&str>) -> Option<Self> {
        let origin = letter::as_it_died(letter).ok()?.origin();
        let about = &letter.about;
        Some(Self {
            job: about.job.clone(),
            job_id: about.job_id.clone()?,
            queue: queue.unwrap_or(&about.queue).to_owned(),
            origin,
            hop: about.hop.saturating_add(1),
            fingerprint: about.fingerprint.clone(),
        })
    }

    /// The id of the store's row of this job. The row has the job's plain id, or the full one if another job has that.
    async fn row(&self, store: &Store) -> Result<Option<String>, Error> {
        let ids = [self.job_id.clone(), format!("{}@{}:{}", self.job_id, self.queue, self.job)];
        let rows = store.jobs_by_ids(&ids).await?;
        let is_own = |row: &&Job| row.origin.as_ref().map_or(row.job == self.job, |origin| *origin == self.origin);
        let own: Vec<_> = rows.iter().filter(is_own).collect();
        Ok(ids.into_iter().find(|id| own.iter().any(|row| row.id == *id)))
    }

    /// An attempt that fails as the one did that the letter died of is enough: the fault is still there.
    async fn outcome(&self, store: &Store) -> Result<CanaryOutcome, Error> {
        let Some(row) = self.row(store).await? else { return Ok(CanaryOutcome::Open) };
        let steps = store.timeline(&row).await?;
        let steps = || steps.iter().filter(|step| step.hop >= self.hop);
        for step in steps().filter(|step| ["dead", "retrying"].contains(&step.step.as_str())) {
            let (kind, error) = (said(step, "kind"), said(step, "error"));
            let id = &self.job_id;
            if fingerprint(&self.job, kind, error).0 == self.fingerprint {
                return Ok(CanaryOutcome::Failed(format!("job {id} failed as before: {kind}: {error}")));
            }
            if step.step == "dead" {
                return Ok(CanaryOutcome::Failed(format!("job {id} died of something else: {kind}: {error}")));
            }
        }
        if steps().any(|step| step.step == "cancelled") {
            return Ok(CanaryOutcome::Failed(format!("job {} was cancelled, and tells nothing", self.job_id)));
        }
        let is_over = steps().any(|step| ["succeeded", "duplicate"].contains(&step.step.as_str()));
        Ok(if is_over { CanaryOutcome::Passed } else { CanaryOutcome::Open })
    }
}

fn said<'a>(step: &'a TimelineEntry, name: &str) -> &'a str {
    step.detail.as_ref().and_then(|detail| detail.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// Waits for the outcomes, and says why the rest should not follow, if so.
pub(super) async fn judge(store: &Store, canaries: &[Canary], patience: Duration) -> Result<Option<String>, Error> {
    let deadline = Instant::now() + patience;
    loop {
        let mut open = 0;
        for canary in canaries {
            match canary.outcome(store).await? {
                CanaryOutcome::Open => open += 1,
                CanaryOutcome::Passed => {}
                CanaryOutcome::Failed(reason) => return Ok(Some(reason)),
            }
        }
        if open == 0 {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            return Ok(Some(format!(
                "no outcome of {open} within {patience:?}: it takes a worker, and a server that keeps this store"
            )));
        }
        sleep(LOOK_EVERY).await;
    }
}
