//! The desk without a store: the dead letters of a queue as they lie in the broker. Few are in memory at once, and none
//! leaves its queue before it is safe elsewhere.
//!
//! Whatever looks at a queue disturbs it: what is handed back loses its order, and the broker counts a delivery of each.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use leveret::{
    Broker,
    catalogue::Catalogue,
    feed::{Batch, Feed, Source, Taken},
};
use leveret_store::Letter;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{error::Error, letter, throttle::Throttle, transfer};
use crate::time::now_ms;

/// On their way at once.
const WINDOW: u16 = 200;
/// More cannot be in one reader's hands.
const IN_HAND: u16 = 2_000;
/// A queue that has delivered nothing for so long is empty, or its broker is away.
const QUIET: Duration = Duration::from_secs(5);
/// More reasons are not kept.
const MOST_REASONS: usize = 100;

/// What came of a queue's dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueSummary {
    /// So many were replayed, exported or purged.
    pub done: u64,
    /// So many could not be, and lie there again.
    pub kept: u64,
    /// Why, of the first hundred.
    pub reasons: Vec<String>,
}

impl QueueSummary {
    fn keep(&mut self, reason: String) {
        self.kept += 1;
        if self.reasons.len() < MOST_REASONS {
            self.reasons.push(reason);
        }
    }
}

/// Publishes up to `most` dead letters of a queue again, to `to` or where they came from: confirmed, then taken away.
/// `most` is how many lay there at the start: else those that fail again would be met again.
pub async fn replay(
    broker: &Broker,
    queue: &str,
    (to, rate): (Option<&str>, Option<f64>),
    most: u64,
    mut progress: impl FnMut(&QueueSummary),
) -> QueueSummary {
    let mut feed = Feed::new(broker, Source::DeadLetters(queue.to_owned()), WINDOW);
    let (mut throttle, publisher, catalogue) = (Throttle::new(rate), broker.publisher(), Catalogue::follow(broker));
    // It says which queues have lanes. Where it cannot be read, letters go to the queue itself.
    drop(timeout(QUIET, catalogue.ready()).await);
    let (mut summary, mut flying) = (QueueSummary::default(), FuturesUnordered::new());
    let mut is_over = false;
    loop {
        let taken = summary.done + summary.kept + flying.len() as u64;
        let next = async {
            throttle.wait().await;
            timeout(QUIET, feed.next(1)).await
        };
        tokio::select! {
            Some((batch, sent)) = flying.next() => {
                match sent {
                    Ok(_) => {
                        summary.done += 1;
                        feed.ack(batch);
                    }
                    // Not acked, and so handed back at the end.
                    Err(error) => summary.keep(error),
                }
                progress(&summary);
            }
            batch = next, if taken < most && !is_over && flying.len() < WINDOW.into() => match batch {
                Ok(batch) => {
                    let Some(message) = batch.messages().first().map(Taken::message) else { continue };
                    let queue = to.unwrap_or(queue);
                    let mut replay = publisher.replay(message, queue);
                    if catalogue.has_lanes(message.dead_letter().job.as_deref().unwrap_or_default(), queue) {
                        replay = replay.lanes();
                    }
                    flying.push(async move { (batch, replay.await.map_err(|error| error.to_string())) });
                }
                Err(_) => is_over = true,
            },
            else => break,
        }
    }
    feed.close().await;
    summary
}

/// Takes up to `most` dead letters of a queue away for good.
pub async fn purge(broker: &Broker, queue: &str, most: u64, mut progress: impl FnMut(&QueueSummary)) -> QueueSummary {
    let mut feed = Feed::new(broker, Source::DeadLetters(queue.to_owned()), WINDOW);
    let mut summary = QueueSummary::default();
    while let Some(batch) = next(&mut feed, most - summary.done).await {
        summary.done += batch.messages().len() as u64;
        feed.ack(batch);
        progress(&summary);
    }
    feed.close().await;
    summary
}

/// Shows up to `most` dead letters of a queue, and hands them back.
pub async fn list(broker: &Broker, queue: &str, most: u16) -> Vec<Letter> {
    let mut feed = Feed::new(broker, Source::DeadLetters(queue.to_owned()), most);
    let (mut letters, now) = (Vec::new(), now_ms());
    while let Some(batch) = next(&mut feed, u64::from(most.min(IN_HAND)) - letters.len() as u64).await {
        let first = letters.len();
        let numbered = batch.messages().iter().zip(first..);
        letters.extend(numbered.map(|(taken, number)| letter::as_letter(taken, queue, number as i64 + 1, now)));
    }
    feed.close().await;
    letters
}

/// Writes up to `most` dead letters of a queue as [`transfer`] does, and hands them back.
///
/// As many readers as it takes hold them all until the end, so that none is met twice.
///
/// # Errors
///
/// [`Error::Io`].
pub async fn export(
    broker: &Broker,
    queue: &str,
    most: u64,
    mut out: impl AsyncWrite + Unpin,
    mut progress: impl FnMut(&QueueSummary),
) -> Result<QueueSummary, Error> {
    let (mut feeds, mut seen, mut summary) = (Vec::new(), HashSet::new(), QueueSummary::default());
    let (mut distinct, now) = (0, now_ms());
    loop {
        let mut feed = Feed::new(broker, Source::DeadLetters(queue.to_owned()), IN_HAND);
        let before = summary.done;
        let mut in_hand = 0;
        while in_hand < IN_HAND.into()
            && let Some(batch) = next(&mut feed, most - distinct).await
        {
            in_hand += batch.messages().len();
            for taken in batch.messages() {
                // Those that were in hand when a connection was lost come again. They are written again rather than
                // taken for each other, and not counted.
                distinct += u64::from(seen.insert(digest(taken)));
                summary.done += 1;
                let number = i64::try_from(summary.done).unwrap_or(i64::MAX);
                out.write_all(&transfer::line(&letter::as_letter(taken, queue, number, now))?).await?;
            }
            progress(&summary);
        }
        feeds.push(feed);
        if summary.done == before || distinct >= most {
            break;
        }
    }
    out.flush().await?;
    for feed in feeds {
        feed.close().await;
    }
    Ok(summary)
}

fn digest(taken: &Taken) -> [u8; 16] {
    let (message, mut short) = (taken.message(), [0; 16]);
    let digest = Sha256::new_with_prefix(message.payload()).chain_update([0]).chain_update(message.properties());
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}

/// The next batch of at most `most`; none when the queue is quiet.
async fn next(feed: &mut Feed, most: u64) -> Option<Batch> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(WINDOW.into());
    if most == 0 { None } else { timeout(QUIET, feed.next(most)).await.ok() }
}
