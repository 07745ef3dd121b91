//! Publishes a batch: all jobs at the same time, except that jobs of one order key follow each other.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use leveret::{JobOptions, PublishError, StoredJob};
use tokio::time::Instant;

use super::settings::RelaySettings;
use crate::outbox::{
    claim::{ClaimedJob, PublishFailure},
    emit::{EVENT, event},
    start::{START, failure, workflow},
};

const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// The bytes of a reason that are stored.
const LONGEST_REASON: usize = 1024;

/// The outcome of a batch, by the numbers of its rows.
#[derive(Debug, Default)]
pub(super) struct PublishedBatch {
    pub(super) published: Vec<i64>,
    pub(super) failed: HashMap<PublishFailure, Vec<i64>>,
    /// They are released, and no try is counted.
    pub(super) untried: Vec<i64>,
    /// At least one job found no broker.
    pub(super) broker_is_unreachable: bool,
}

/// The outcome of one job.
enum RowOutcome {
    /// It was published, or another job has its unique key: it leaves the outbox.
    Published,
    Failed(PublishFailure),
    /// The broker is unreachable: the job was not published, or its publish is uncertain.
    Unreachable,
    /// A job before it with the same order key was not published, or the lease has expired.
    Untried,
}

pub(super) async fn publish(settings: &RelaySettings, until: Instant, claimed: Vec<ClaimedJob>) -> PublishedBatch {
    let groups = groups(claimed);
    let all = groups.len().max(1);
    let publishes = groups.into_iter().map(|group| publish_group(settings, until, group));
    let mut outcomes = stream::iter(publishes).buffer_unordered(all);
    let mut batch = PublishedBatch::default();
    while let Some(group) = outcomes.next().await {
        for (seq, outcome) in group {
            match outcome {
                RowOutcome::Published => batch.published.push(seq),
                RowOutcome::Failed(failure) => batch.failed.entry(failure).or_default().push(seq),
                RowOutcome::Unreachable => {
                    batch.broker_is_unreachable = true;
                    batch.untried.push(seq);
                }
                RowOutcome::Untried => batch.untried.push(seq),
            }
        }
    }
    for (failure, rows) in &batch.failed {
        let PublishFailure::SetAside { reason } = failure else { continue };
        tracing::error!(jobs = rows.len(), first = rows.first(), error = reason, "the relay set jobs aside");
    }
    batch
}

/// Groups jobs of one order key, in their order. Each other job is a group of its own.
fn groups(claimed: Vec<ClaimedJob>) -> Vec<Vec<ClaimedJob>> {
    let mut groups: Vec<Vec<ClaimedJob>> = Vec::with_capacity(claimed.len());
    let mut of_key: HashMap<String, usize> = HashMap::new();
    for row in claimed {
        let Some(key) = &row.order_key else {
            groups.push(vec![row]);
            continue;
        };
        match of_key.entry(key.clone()) {
            Slot::Occupied(index) => groups[*index.get()].push(row),
            Slot::Vacant(index) => {
                index.insert(groups.len());
                groups.push(vec![row]);
            }
        }
    }
    groups
}

async fn publish_group(settings: &RelaySettings, until: Instant, group: Vec<ClaimedJob>) -> Vec<(i64, RowOutcome)> {
    let mut outcomes = Vec::with_capacity(group.len());
    let mut open = true;
    for row in group {
        let seq = row.seq;
        // After the lease another relay may have claimed these rows, and be further ahead.
        if !open || Instant::now() >= until {
            outcomes.push((seq, RowOutcome::Untried));
            continue;
        }
        let outcome = publish_row(settings, row).await;
        open = matches!(outcome, RowOutcome::Published);
        outcomes.push((seq, outcome));
    }
    outcomes
}

/// Emits an event, starts a workflow, or publishes a job.
async fn publish_row(settings: &RelaySettings, mut row: ClaimedJob) -> RowOutcome {
    if row.job == START {
        return Box::pin(start(settings, row)).await;
    }
    if row.job != EVENT {
        return publish_job(settings, row).await;
    }
    let Some(payload) = row.payload.take() else { return too_large(settings, row.size) };
    let tries = row.tries;
    let event = match event(row, payload) {
        Ok(event) => event,
        Err(reason) => return RowOutcome::Failed(aside(&reason)),
    };
    match settings.publisher.emit(event).await {
        Ok(_) => RowOutcome::Published,
        // One subscription may refuse its copies for as long as its queue is full. Each try doubles the event in all
        // other subscriptions, so tries are counted.
        Err(error @ PublishError::Uncertain { .. }) => tried(settings, tries, &error),
        Err(error) => failed(settings, tries, &error),
    }
}

async fn start(settings: &RelaySettings, row: ClaimedJob) -> RowOutcome {
    let Some(payload) = row.payload else { return too_large(settings, row.size) };
    let workflow = match workflow(&payload) {
        Ok(workflow) => workflow,
        Err(reason) => return RowOutcome::Failed(aside(&reason)),
    };
    match settings.publisher.start(&workflow).await.map_err(failure) {
        Ok(_) => RowOutcome::Published,
        Err(Ok(error)) => failed(settings, row.tries, &error),
        Err(Err(reason)) => RowOutcome::Failed(aside(&reason)),
    }
}

async fn publish_job(settings: &RelaySettings, row: ClaimedJob) -> RowOutcome {
    let options: JobOptions = match serde_json::from_str(&row.options) {
        Ok(options) => options,
        Err(error) => return RowOutcome::Failed(aside(&format!("the options of the job do not decode: {error}"))),
    };
    let Some(payload) = row.payload else {
        return too_large(settings, row.size);
    };
    let enqueued_at = SystemTime::UNIX_EPOCH + Duration::from_millis(row.enqueued_at);
    let (name, queue) = (row.job.into(), row.queue.into());
    let stored = StoredJob { id: row.id.as_str().into(), name, queue, payload, enqueued_at, options };
    match settings.publisher.publish(stored).await {
        Ok(_) => RowOutcome::Published,
        Err(PublishError::NotUnique { key, id }) => {
            // The transaction enqueued it for the case that no other job has the key.
            tracing::info!(
                key,
                job_id = row.id,
                other = id.as_str(),
                "the relay skipped a job: another job has its unique key"
            );
            RowOutcome::Published
        }
        Err(error) => failed(settings, row.tries, &error),
    }
}

fn too_large(settings: &RelaySettings, size: u64) -> RowOutcome {
    let limit = settings.payload_limit;
    let reason = format!("the payload of the job is {size} bytes, more than the limit of {limit}");
    RowOutcome::Failed(aside(&reason))
}

fn failed(settings: &RelaySettings, tries: u32, error: &PublishError) -> RowOutcome {
    match error {
        PublishError::Uncertain { .. }
        | PublishError::Blocked { .. }
        | PublishError::Unavailable { .. }
        | PublishError::Closed => RowOutcome::Unreachable,
        PublishError::TooLarge { .. } | PublishError::Invalid { .. } | PublishError::Encode { .. } => {
            RowOutcome::Failed(aside(&error.to_string()))
        }
        // The outage of the store says nothing about the job.
        PublishError::UniqueKeys(_) => later(settings, tries, error),
        _ => tried(settings, tries, error),
    }
}

/// Counts a try, after the last of which the row is set aside.
fn tried(settings: &RelaySettings, tries: u32, error: &PublishError) -> RowOutcome {
    if tries + 1 >= settings.tries {
        return RowOutcome::Failed(aside(&error.to_string()));
    }
    later(settings, tries, error)
}

/// Schedules the next try. The number of tries is in the row, so any relay may make it.
fn later(settings: &RelaySettings, tries: u32, error: &PublishError) -> RowOutcome {
    let after = settings.backoff.saturating_mul(1 << tries.min(16)).min(LONGEST_BACKOFF);
    RowOutcome::Failed(PublishFailure::Retry { reason: cut(&error.to_string()), after })
}

fn aside(reason: &str) -> PublishFailure {
    PublishFailure::SetAside { reason: cut(reason) }
}

fn cut(reason: &str) -> String {
    reason[..reason.floor_char_boundary(LONGEST_REASON)].to_owned()
}
