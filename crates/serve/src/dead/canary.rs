//! Canaries: the first few letters of a replay. Their outcomes decide whether the others follow.

use std::time::Duration;

use leveret::catalogue::Catalogue;
use leveret_store::{Store, StoredDeadLetter, TimelineEntry, TrackedJob, fingerprint};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{error::Error, letter};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A replayed job that is tracked.
#[derive(Debug)]
pub(super) struct Canary {
    job: String,
    /// The id under which its worker reports on it.
    tracking_id: String,
    /// The queue that the job was replayed to.
    queue: String,
    /// Distinguishes the job from others with the same id.
    origin: String,
    /// The copy of the job. Status updates of earlier copies do not count.
    hop: u32,
    fingerprint: String,
}

enum CanaryOutcome {
    Open,
    Passed,
    Failed(String),
}

impl Canary {
    /// A canary for a letter, on `queue` instead of the letter's own. None if the letter has no job id or cannot be read:
    /// its outcome could not be found.
    pub(super) fn of(letter: &StoredDeadLetter, queue: Option<&str>, catalogue: &Catalogue) -> Option<Self> {
        let message = letter::as_it_died(letter).ok()?;
        let about = &letter.about;
        let queue = queue.unwrap_or(&about.queue);
        Some(Self {
            job: about.job.clone(),
            tracking_id: letter::tracking_id(&message, queue, catalogue)?,
            queue: queue.to_owned(),
            origin: message.origin_digest(),
            hop: about.hop.saturating_add(1),
            fingerprint: about.fingerprint.clone(),
        })
    }

    /// The id of the job's row in the store: its tracking id, or the full one if another job has that id.
    async fn row(&self, store: &Store) -> Result<Option<String>, Error> {
        let ids = [self.tracking_id.clone(), format!("{}@{}:{}", self.tracking_id, self.queue, self.job)];
        let rows = store.jobs_by_ids(&ids).await?;
        let is_own =
            |row: &&TrackedJob| row.origin.as_ref().map_or(row.job == self.job, |origin| *origin == self.origin);
        let own: Vec<_> = rows.iter().filter(is_own).collect();
        Ok(ids.into_iter().find(|id| own.iter().any(|row| row.id == *id)))
    }

    /// The outcome so far. One attempt that fails with the letter's own error is enough: the fault still exists.
    async fn outcome(&self, store: &Store) -> Result<CanaryOutcome, Error> {
        let Some(row) = self.row(store).await? else { return Ok(CanaryOutcome::Open) };
        let steps = store.timeline(&row).await?;
        let steps = || steps.iter().filter(|step| step.hop >= self.hop);
        for step in steps().filter(|step| ["dead", "retrying"].contains(&step.step.as_str())) {
            let (kind, error) = (detail(step, "kind"), detail(step, "error"));
            let id = &self.tracking_id;
            if fingerprint(&self.job, kind, error).0 == self.fingerprint {
                return Ok(CanaryOutcome::Failed(format!("job {id} failed as before: {kind}: {error}")));
            }
            if step.step == "dead" {
                return Ok(CanaryOutcome::Failed(format!("job {id} failed differently: {kind}: {error}")));
            }
        }
        if steps().any(|step| step.step == "cancelled") {
            return Ok(CanaryOutcome::Failed(format!(
                "job {} was cancelled, so its outcome is unknown",
                self.tracking_id
            )));
        }
        let is_over = steps().any(|step| ["succeeded", "duplicate"].contains(&step.step.as_str()));
        Ok(if is_over { CanaryOutcome::Passed } else { CanaryOutcome::Open })
    }
}

fn detail<'a>(step: &'a TimelineEntry, name: &str) -> &'a str {
    step.detail.as_ref().and_then(|detail| detail.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// Waits for the outcomes. Returns the reason why the other letters should not follow, if there is one.
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
                "no outcome of {open} within {patience:?}: this requires a worker, and a server on this store"
            )));
        }
        sleep(LOOK_EVERY).await;
    }
}
