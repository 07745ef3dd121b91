//! Operations on a dead-letter queue in the broker, without a store. Few letters are in memory at once. A letter leaves its
//! queue only when it is confirmed elsewhere.
//!
//! Every operation disturbs the queue: requeued letters lose their order, and the broker counts a delivery of each.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use leveret::{
    Broker,
    catalogue::Catalogue,
    reader::{Batch, QueueReader, ReadMessage, Source},
    time::now_ms,
};
use leveret_store::StoredDeadLetter;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{error::Error, letter, replay::ReplayOptions, throttle::Throttle, transfer};

/// Letters that are unacknowledged at once.
const WINDOW: u16 = 200;
/// The greatest prefetch of one reader.
const PREFETCH: u16 = 2_000;
/// Silence after which a queue counts as empty, or its broker as unreachable.
const QUIET: Duration = Duration::from_secs(5);
/// Bounds the memory for reasons.
const MOST_REASONS: usize = 100;

/// The result of an operation on a dead-letter queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueSummary {
    /// The number of letters that were replayed, exported or purged.
    pub done: u64,
    /// The number of letters that failed and stay in the queue.
    pub kept: u64,
    /// The reasons of the first hundred failures.
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

/// Publishes up to `most` dead letters of a queue again, to `to` or to their own queue. Each is confirmed before it leaves
/// the dead-letter queue. `most` is the length of the queue at the start: otherwise a letter that fails again
/// would be replayed again.
///
/// # Errors
///
/// [`Error::Options`] for a rate out of the bounds of [`ReplayOptions`]. What fails later is in the summary.
pub async fn replay(
    broker: &Broker,
    queue: &str,
    (to, rate): (Option<&str>, Option<f64>),
    most: u64,
    mut progress: impl FnMut(&QueueSummary),
) -> Result<QueueSummary, Error> {
    ReplayOptions { rate, ..ReplayOptions::default() }.check()?;
    let mut feed = QueueReader::new(broker, Source::DeadLetters(queue.to_owned()), WINDOW)?;
    let (mut throttle, publisher, catalogue) = (Throttle::new(rate), broker.publisher(), Catalogue::follow(broker));
    // The catalogue has the lanes of each queue. Without it, letters go to the queue itself.
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
                    // Without an ack the letter is requeued at the end.
                    Err(error) => summary.keep(error),
                }
                progress(&summary);
            }
            batch = next, if taken < most && !is_over && flying.len() < WINDOW.into() => match batch {
                Ok(batch) => {
                    let Some(message) = batch.messages().first().map(ReadMessage::message) else { continue };
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
    Ok(summary)
}

/// Deletes up to `most` dead letters of a queue.
///
/// # Errors
///
/// [`Error::Reader`] if a reader of the queue cannot be set up.
pub async fn purge(
    broker: &Broker,
    queue: &str,
    most: u64,
    mut progress: impl FnMut(&QueueSummary),
) -> Result<QueueSummary, Error> {
    let mut feed = QueueReader::new(broker, Source::DeadLetters(queue.to_owned()), WINDOW)?;
    let mut summary = QueueSummary::default();
    while let Some(batch) = next(&mut feed, most - summary.done).await {
        summary.done += batch.messages().len() as u64;
        feed.ack(batch);
        progress(&summary);
    }
    feed.close().await;
    Ok(summary)
}

/// Reads up to `most` dead letters of a queue, 1 to 2000, and requeues them.
///
/// # Errors
///
/// [`Error::Reader`] if `most` is out of these bounds.
pub async fn list(broker: &Broker, queue: &str, most: u16) -> Result<Vec<StoredDeadLetter>, Error> {
    let mut feed = QueueReader::new(broker, Source::DeadLetters(queue.to_owned()), most)?;
    let (mut letters, now) = (Vec::new(), now_ms());
    while let Some(batch) = next(&mut feed, u64::from(most) - letters.len() as u64).await {
        let first = letters.len();
        let numbered = batch.messages().iter().zip(first..);
        letters.extend(numbered.map(|(taken, number)| letter::as_letter(taken, queue, number as i64 + 1, now)));
    }
    feed.close().await;
    Ok(letters)
}

/// Writes up to `most` dead letters of a queue in the format of [`transfer`], and requeues them.
///
/// Several readers hold all letters until the end, so that none is delivered twice.
///
/// # Errors
///
/// [`Error::Io`], and [`Error::Reader`] if a reader of the queue cannot be set up.
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
        let mut feed = QueueReader::new(broker, Source::DeadLetters(queue.to_owned()), PREFETCH)?;
        let before = summary.done;
        let mut held = 0;
        while held < PREFETCH.into()
            && let Some(batch) = next(&mut feed, most - distinct).await
        {
            held += batch.messages().len();
            for taken in batch.messages() {
                // After a lost connection, unacknowledged letters are delivered again. They are written again, because
                // two letters may be equal, but do not count towards `most`.
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

fn digest(taken: &ReadMessage) -> [u8; 16] {
    let (message, mut short) = (taken.message(), [0; 16]);
    let digest = Sha256::new_with_prefix(message.payload()).chain_update([0]).chain_update(message.properties());
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}

/// The next batch of at most `most` letters; none if the queue delivers nothing.
async fn next(feed: &mut QueueReader, most: u64) -> Option<Batch> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(WINDOW.into());
    if most == 0 { None } else { timeout(QUIET, feed.next(most)).await.ok() }
}
