//! A batch's way to the broker: all at once, but the rows of one order key one after the other.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use leveret::PublishError;
use tokio::time::Instant;

use super::Relay;
use crate::outbox::{
    claim::{Fate, Leased},
    entry::Options,
};

const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// Bytes of a reason that are kept.
const LONGEST_REASON: usize = 1024;

/// What became of the rows of a batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) published: Vec<i64>,
    pub(super) failed: HashMap<Fate, Vec<i64>>,
    /// To be given back, with nothing counted against them.
    pub(super) untried: Vec<i64>,
    /// The broker took nothing.
    pub(super) away: bool,
}

/// What became of one row.
enum Outcome {
    Published,
    Failed(Fate),
    /// The broker is away: the job is not published, or nobody knows.
    Away,
    /// A row before it with the same order key was not published, or the lease is over.
    Untried,
}

pub(super) async fn publish(relay: &Relay, until: Instant, leased: Vec<Leased>) -> Batch {
    let groups = groups(leased);
    let all = groups.len().max(1);
    let publishes = groups.into_iter().map(|group| publish_group(relay, until, group));
    let mut outcomes = stream::iter(publishes).buffer_unordered(all);
    let mut batch = Batch::default();
    while let Some(group) = outcomes.next().await {
        for (seq, outcome) in group {
            match outcome {
                Outcome::Published => batch.published.push(seq),
                Outcome::Failed(fate) => batch.failed.entry(fate).or_default().push(seq),
                Outcome::Away => {
                    batch.away = true;
                    batch.untried.push(seq);
                }
                Outcome::Untried => batch.untried.push(seq),
            }
        }
    }
    for (fate, rows) in &batch.failed {
        let Fate::Aside { reason } = fate else { continue };
        tracing::error!(jobs = rows.len(), first = rows.first(), error = reason, "set jobs of the outbox aside");
    }
    batch
}

/// Those of one order key together, in their order; all others alone.
fn groups(leased: Vec<Leased>) -> Vec<Vec<Leased>> {
    let mut groups: Vec<Vec<Leased>> = Vec::with_capacity(leased.len());
    let mut of_key: HashMap<String, usize> = HashMap::new();
    for row in leased {
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

async fn publish_group(relay: &Relay, until: Instant, group: Vec<Leased>) -> Vec<(i64, Outcome)> {
    let mut outcomes = Vec::with_capacity(group.len());
    let mut open = true;
    for row in group {
        let seq = row.seq;
        // Once the lease is over another relay may be at the same rows, further ahead.
        if !open || Instant::now() >= until {
            outcomes.push((seq, Outcome::Untried));
            continue;
        }
        let outcome = publish_row(relay, row).await;
        open = matches!(outcome, Outcome::Published);
        outcomes.push((seq, outcome));
    }
    outcomes
}

async fn publish_row(relay: &Relay, row: Leased) -> Outcome {
    let options: Options = match serde_json::from_str(&row.options) {
        Ok(options) => options,
        Err(error) => return Outcome::Failed(aside(&format!("its options do not decode: {error}"))),
    };
    let Some(payload) = row.payload else {
        let (size, limit) = (row.size, relay.payload_limit);
        let reason = format!("the payload of the job is {size} bytes, more than the limit of {limit}");
        return Outcome::Failed(aside(&reason));
    };
    let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    let mut publish =
        relay.publisher.publish_raw(row.job, row.queue, payload).id(row.id).enqueued_at(at(row.enqueued_at));
    if let Some(time) = options.not_before {
        publish = publish.at(at(time));
    }
    if let Some(time) = options.expires_at {
        let left = at(time).duration_since(SystemTime::now()).unwrap_or_default();
        // A job whose time was over before the relay came to it is not refused: it expires in its queue.
        publish = publish.expires(left.max(Duration::from_millis(1)));
    }
    if options.lanes {
        publish = publish.lanes();
    }
    if let Some(priority) = options.priority {
        publish = publish.priority(priority);
    }
    if let Some(label) = options.label {
        publish = publish.label(label);
    }
    if let Some(id) = options.correlation_id {
        publish = publish.correlation_id(id);
    }
    if options.track {
        publish = publish.track();
    }
    let publish = options.headers.into_iter().fold(publish, |publish, (name, value)| publish.header(name, value));
    match publish.await {
        Ok(_) => Outcome::Published,
        Err(error) => failed(relay, row.tries, &error),
    }
}

fn failed(relay: &Relay, tries: u32, error: &PublishError) -> Outcome {
    match error {
        PublishError::Uncertain { .. }
        | PublishError::Blocked { .. }
        | PublishError::Unavailable { .. }
        | PublishError::Closed => Outcome::Away,
        PublishError::TooLarge { .. } | PublishError::Invalid { .. } | PublishError::Encode(_) => {
            Outcome::Failed(aside(&error.to_string()))
        }
        _ if tries + 1 >= relay.tries => Outcome::Failed(aside(&error.to_string())),
        _ => {
            let after = relay.backoff.saturating_mul(1 << tries.min(16)).min(LONGEST_BACKOFF);
            Outcome::Failed(Fate::Again { reason: cut(&error.to_string()), after })
        }
    }
}

fn aside(reason: &str) -> Fate {
    Fate::Aside { reason: cut(reason) }
}

fn cut(reason: &str) -> String {
    reason[..reason.floor_char_boundary(LONGEST_REASON)].to_owned()
}
