//! The run of a replay: canaries, batches, and retries while the broker is unreachable.

use std::{collections::HashSet, time::Duration};

use futures_util::StreamExt;
use leveret::time::now_ms;
use leveret_store::{AuditStamp, StoredDeadLetter};
use tokio::time::sleep;

use super::{
    options::ReplayOptions,
    progress::{ReplayProgress, UnpublishedLetter},
    send::{PublishFault, SentLetter, paced, send},
};
use crate::dead::{
    canary::{self, Canary},
    error::Error,
    service::DeadLetterService,
    throttle::Throttle,
};

/// The greatest number of letters in memory.
const MOST: u32 = 512;
/// Number of failed letters after which a replay ends, because the others would fail too.
const MOST_FAILED: usize = 100;
/// Number of attempts to reach the broker, each for one publish timeout.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// A running replay.
pub(super) struct ReplayRun<'a, P> {
    pub(super) dead: &'a DeadLetterService,
    pub(super) options: ReplayOptions,
    pub(super) actor: &'a str,
    pub(super) progress: P,
    pub(super) throttle: Throttle,
    pub(super) done: ReplayProgress,
    pub(super) failed: Vec<UnpublishedLetter>,
    /// Letters up to this number are published, or failed.
    pub(super) after: i64,
}

impl<P: FnMut(&ReplayProgress) + Send> ReplayRun<'_, P> {
    pub(super) fn by(&self) -> AuditStamp<'_> {
        AuditStamp { actor: self.actor, at: now_ms() }
    }

    /// Publishes all letters, and returns the outcome.
    pub(super) async fn all(&mut self, judged: bool) -> Result<String, Error> {
        // The catalogue has the lanes of each queue. Without the right to read it, letters go to the queue itself.
        self.dead.catalogue.ready().await;
        (self.progress)(&self.done);
        if let Some(count) = self.options.canary.filter(|count| *count > 0 && !judged) {
            if let Some(reason) = self.canaries(count).await? {
                return Ok(format!("stopped after its canaries: {reason}"));
            }
            self.dead.store.judged(self.done.replay).await?;
        }
        loop {
            let letters = self.next(MOST).await?;
            if letters.is_empty() {
                break;
            }
            self.publish_all(letters, self.options.track).await?;
            if self.failed.len() >= MOST_FAILED {
                return Ok(format!("stopped: {MOST_FAILED} could not be published, the last {}", self.last_reason()));
            }
        }
        Ok(match self.failed.len() {
            0 => "done".to_owned(),
            failed => format!("done, but {failed} could not be published, the last {}", self.last_reason()),
        })
    }

    fn last_reason(&self) -> String {
        self.failed.last().map(|failed| format!("({}) because {}", failed.id, failed.reason)).unwrap_or_default()
    }

    async fn canaries(&mut self, count: u32) -> Result<Option<String>, Error> {
        // Before the verdict, only canaries are published, so letters that an earlier run published are canaries.
        let published = self.dead.store.replayed_by(self.done.replay, count).await?;
        let mut chosen = published.len();
        let mut canaries = Vec::with_capacity(chosen);
        for letter in published {
            let letter = self.dead.store.letter(letter.id).await?;
            canaries.extend(
                letter.and_then(|letter| Canary::of(&letter, self.options.queue.as_deref(), &self.dead.catalogue)),
            );
        }
        loop {
            if canaries.len() < chosen {
                return Ok(Some("a letter without a job id cannot be followed".to_owned()));
            }
            let missing = count.saturating_sub(u32::try_from(chosen).unwrap_or(u32::MAX));
            let letters = if missing > 0 { self.next(missing.min(MOST)).await? } else { Vec::new() };
            if letters.is_empty() {
                break;
            }
            chosen += letters.len();
            let queue = self.options.queue.as_deref();
            canaries.extend(letters.iter().filter_map(|letter| Canary::of(letter, queue, &self.dead.catalogue)));
            if canaries.len() < chosen {
                continue;
            }
            self.publish_all(letters, true).await?;
            if !self.failed.is_empty() {
                return Ok(Some(format!("one could not be published: {}", self.last_reason())));
            }
        }
        self.done.waiting = true;
        (self.progress)(&self.done);
        let patience = Duration::from_secs(self.options.canary_timeout);
        let verdict = canary::judge(&self.dead.store, &canaries, patience).await;
        self.done.waiting = false;
        verdict
    }

    /// The next letters, without the failed ones.
    async fn next(&self, limit: u32) -> Result<Vec<StoredDeadLetter>, Error> {
        let failed: HashSet<_> = self.failed.iter().map(|failed| failed.id).filter(|id| *id > self.after).collect();
        let limit = limit.saturating_add(u32::try_from(failed.len()).unwrap_or(0));
        let mut letters = self.dead.store.next_of_replay(self.done.replay, self.after, limit).await?;
        letters.retain(|letter| !failed.contains(&letter.about.id));
        Ok(letters)
    }

    /// Returns when each letter is confirmed and marked, or has failed.
    async fn publish_all(&mut self, mut letters: Vec<StoredDeadLetter>, track: bool) -> Result<(), Error> {
        let last = letters.last().map_or(self.after, |letter| letter.about.id);
        for attempt in 1.. {
            let reason = self.publish(letters, track).await?;
            let Some((waiting, reason)) = reason else { break };
            if attempt == TRIES {
                return Err(Error::Interrupted { replay: self.done.replay, reason });
            }
            sleep(PAUSE).await;
            letters = self.next(u32::try_from(waiting).unwrap_or(MOST)).await?;
        }
        self.after = last;
        Ok(())
    }

    /// Publishes each letter once. Returns how many remain, and the last reason, if any remain.
    async fn publish(&mut self, letters: Vec<StoredDeadLetter>, track: bool) -> Result<Option<(usize, String)>, Error> {
        let (dead, queue) = (self.dead, self.options.queue.clone());
        let mut throttle = std::mem::replace(&mut self.throttle, Throttle::new(None));
        let mut waiting = None;
        {
            let send = |letter| send(dead, letter, queue.as_deref(), track);
            let paced = paced(letters, &mut throttle);
            let mut sent = std::pin::pin!(paced.map(send).buffer_unordered(MOST as usize).ready_chunks(MOST as usize));
            while let Some(sent) = sent.next().await {
                if let Some((more, reason)) = self.settle(sent).await? {
                    waiting = Some((waiting.map_or(0, |(count, _)| count) + more, reason));
                }
            }
        }
        self.throttle = throttle;
        Ok(waiting)
    }

    async fn settle(&mut self, sent: Vec<SentLetter>) -> Result<Option<(usize, String)>, Error> {
        let (mut ids, mut updates, mut waiting) = (Vec::new(), Vec::new(), None);
        for SentLetter { id, update, fault } in sent {
            match fault {
                None => {
                    ids.push(id);
                    updates.extend(update);
                }
                Some(PublishFault::Lasting(reason)) => self.failed.push(UnpublishedLetter { id, reason }),
                Some(PublishFault::Passing(reason)) => {
                    waiting = Some((waiting.map_or(0, |(count, _)| count) + 1, reason));
                }
            }
        }
        self.dead.store.record(&updates).await?;
        if !ids.is_empty() {
            self.done.replayed += self.dead.store.replayed(self.done.replay, &ids, self.by()).await?;
        }
        self.done.failed = self.failed.len() as u64;
        (self.progress)(&self.done);
        Ok(waiting)
    }
}
