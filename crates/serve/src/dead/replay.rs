//! Brings dead letters back to their queues: published, confirmed, then marked as replayed. Killed at any moment, a
//! replay can go on; what was published and not yet marked is published twice, under the same id.

use std::{collections::HashSet, time::Duration};

use futures_util::{Stream, StreamExt, stream::unfold};
use leveret::{PublishError, event::JobEvent};
use leveret_store::{By, Letter, Replay, Selection};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{
    Desk, Error, canary,
    canary::Canary,
    lease::{self, Held, Seized},
    letter,
    pace::Pace,
};
use crate::time::now_ms;

/// Letters that are in memory at once, if they are small.
const MOST: u32 = 512;
/// A replay ends when so many letters could not be published: something is wrong with all of them.
const MOST_FAILED: usize = 100;
/// How often a broker that is away is tried, each time for as long as a publish may take.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// How a replay goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Letters per second; as fast as the broker confirms, if none.
    pub rate: Option<f64>,
    /// So many go first, tracked, and if one of them fails the rest stays.
    pub canary: Option<u32>,
    /// How long to wait for their outcomes, in seconds.
    pub canary_timeout: u64,
    /// Another queue than the one each came from.
    pub queue: Option<String>,
    /// Has all of them tracked.
    pub track: bool,
}

/// Letters per second that a replay may be asked for.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

impl Options {
    /// Whether a replay can go so.
    ///
    /// # Errors
    ///
    /// [`Error::Options`].
    pub fn check(&self) -> Result<(), Error> {
        match self.rate {
            Some(rate) if !RATES.contains(&rate) => Err(Error::Options(format!(
                "rate: {rate:?} must be from {:?} to 1000000 letters a second",
                RATES.start()
            ))),
            _ => Ok(()),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { rate: None, canary: None, canary_timeout: 300, queue: None, track: false }
    }
}

/// How far a replay is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Its number.
    pub replay: i64,
    /// How many letters it took.
    pub total: u64,
    /// How many of them were published and confirmed.
    pub replayed: u64,
    /// How many could not be published, so far.
    pub failed: u64,
    /// Whether it waits for the outcomes of its canaries.
    pub waiting: bool,
}

/// A letter that could not be published: it lies there again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The letter's number.
    pub id: i64,
    /// Why.
    pub reason: String,
}

/// How a replay ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its number.
    pub replay: i64,
    /// How many letters it took.
    pub total: u64,
    /// How many of them were published and confirmed.
    pub replayed: u64,
    /// How many lie there again.
    pub returned: u64,
    /// Those that could not be published.
    pub failed: Vec<Failed>,
    /// In words.
    pub outcome: String,
}

impl Desk {
    /// Brings letters back. See [`desk`](super) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the broker is away for long, [`Error::Store`]; the replay is open then, and is taken
    /// up by a server.
    pub async fn replay(
        &self,
        selection: &Selection,
        options: &Options,
        actor: &str,
        progress: impl FnMut(&Progress) + Send,
    ) -> Result<Summary, Error> {
        let held = self.start(selection, options, actor).await?;
        self.go_on(held, actor, progress).await
    }

    /// Opens a replay that is ours, for those who answer before it is done: [`go_on`](Self::go_on) carries it out.
    ///
    /// # Errors
    ///
    /// [`Error::Options`]; [`Error::Store`]: the replay may be open then, and is taken up by a server.
    pub async fn start(&self, selection: &Selection, options: &Options, actor: &str) -> Result<Held, Error> {
        options.check()?;
        let (kept, owner) = (serde_json::to_value(options).unwrap_or_default(), lease::new_owner());
        let by = By { actor, at: now_ms() };
        let replay = self.store.start_replay(selection, &kept, by, lease::lease(&owner)).await?;
        // Of very many letters the start takes longer than the lease.
        if !self.store.renew_replay(replay.id, lease::lease(&owner)).await? {
            return Err(Error::Running(replay.id));
        }
        Ok(Held { replay, owner })
    }

    /// Goes on with a replay that was interrupted, by whatever. If whoever ran it was killed, this waits until its lease
    /// is over, up to 20 s.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay) and [`take`](Self::take).
    pub async fn resume(
        &self,
        replay: i64,
        actor: &str,
        progress: impl FnMut(&Progress) + Send,
    ) -> Result<Summary, Error> {
        self.go_on(self.take_when_free(replay).await?, actor, progress).await
    }

    /// Ends a replay, whoever runs it: what is not published by then lies there again. It takes some seconds if the replay
    /// runs, until whoever runs it has noticed and marked what was under way.
    ///
    /// # Errors
    ///
    /// [`Error::NoReplay`], [`Error::Ended`], [`Error::Store`].
    pub async fn stop(&self, id: i64, actor: &str) -> Result<Replay, Error> {
        let seized = self.seize(id, actor).await?;
        self.end(seized, actor).await
    }

    /// Ends a replay that was taken from whoever ran it.
    pub(crate) async fn end(&self, Seized { held, was_running }: Seized, actor: &str) -> Result<Replay, Error> {
        if was_running {
            sleep(lease::NOTICED_WITHIN).await;
        }
        let (id, by, outcome) = (held.replay.id, By { actor, at: now_ms() }, format!("stopped by {actor}"));
        self.store.finish_replay(id, &held.owner, &outcome, by).await?.ok_or(Error::Ended(id))?;
        self.store.replay(id).await?.ok_or(Error::NoReplay(id))
    }

    /// Carries a replay out that is ours.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay); [`Error::Running`] if the store was away for so long that another has it now.
    pub async fn go_on(
        &self,
        held: Held,
        actor: &str,
        progress: impl FnMut(&Progress) + Send,
    ) -> Result<Summary, Error> {
        let replay = held.replay();
        let options: Options = serde_json::from_value(replay.options.clone()).unwrap_or_default();
        let done =
            Progress { replay: replay.id, total: replay.total, replayed: replay.replayed, failed: 0, waiting: false };
        let pace = Pace::new(options.rate);
        let mut run = Run { desk: self, options, actor, progress, pace, done, failed: Vec::new(), after: 0 };
        let work = async {
            // Whoever stopped it was killed before its end.
            if let Some(stopped) = &replay.outcome {
                return Ok(stopped.clone());
            }
            run.all(replay.judged).await
        };
        let outcome = match held.keep(&self.store, work).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                held.release(&self.store).await;
                return Err(error);
            }
            None => return Err(Error::Running(replay.id)),
        };
        let returned = self.store.finish_replay(replay.id, &held.owner, &outcome, run.by()).await?;
        let returned = returned.ok_or(Error::Running(replay.id))?;
        let Run { done: Progress { replay, total, replayed, .. }, failed, .. } = run;
        Ok(Summary { replay, total, replayed, returned, failed, outcome })
    }
}

/// A replay under way.
struct Run<'a, P> {
    desk: &'a Desk,
    options: Options,
    actor: &'a str,
    progress: P,
    pace: Pace,
    done: Progress,
    failed: Vec<Failed>,
    /// Letters up to this number are published, or could not be.
    after: i64,
}

/// What became of a publish.
struct Sent {
    id: i64,
    event: Option<JobEvent>,
    fault: Option<Fault>,
}

enum Fault {
    /// It will be the same the next time.
    Lasting(String),
    /// The broker is away, or did not say.
    Passing(String),
}

impl<P: FnMut(&Progress) + Send> Run<'_, P> {
    fn by(&self) -> By<'_> {
        By { actor: self.actor, at: now_ms() }
    }

    /// Publishes all, and says how it ended.
    async fn all(&mut self, judged: bool) -> Result<String, Error> {
        // It says which queues have lanes. Where it must not be read, letters go to the queue itself.
        self.desk.catalogue.ready().await;
        (self.progress)(&self.done);
        if let Some(count) = self.options.canary.filter(|count| *count > 0 && !judged) {
            if let Some(reason) = self.canaries(count).await? {
                return Ok(format!("stopped after its canaries: {reason}"));
            }
            self.desk.store.judged(self.done.replay).await?;
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
        // Until they are judged, nothing but canaries is published: also by whoever ran this before.
        let published = self.desk.store.replayed_by(self.done.replay, count).await?;
        let mut chosen = published.len();
        let mut canaries = Vec::with_capacity(chosen);
        for letter in published {
            let letter = self.desk.store.letter(letter.id).await?;
            canaries.extend(letter.and_then(|letter| Canary::of(&letter, self.options.queue.as_deref())));
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
            canaries.extend(letters.iter().filter_map(|letter| Canary::of(letter, queue)));
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
        let verdict = canary::judge(&self.desk.store, &canaries, patience).await;
        self.done.waiting = false;
        verdict
    }

    /// The next letters, but those that cannot be published.
    async fn next(&self, limit: u32) -> Result<Vec<Letter>, Error> {
        let failed: HashSet<_> = self.failed.iter().map(|failed| failed.id).filter(|id| *id > self.after).collect();
        let limit = limit.saturating_add(u32::try_from(failed.len()).unwrap_or(0));
        let mut letters = self.desk.store.next_of_replay(self.done.replay, self.after, limit).await?;
        letters.retain(|letter| !failed.contains(&letter.about.id));
        Ok(letters)
    }

    /// Returns once each is confirmed and marked, or has failed.
    async fn publish_all(&mut self, mut letters: Vec<Letter>, track: bool) -> Result<(), Error> {
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

    /// Publishes each once. Returns how many are still to be published, and why, if any are.
    async fn publish(&mut self, letters: Vec<Letter>, track: bool) -> Result<Option<(usize, String)>, Error> {
        let (desk, queue) = (self.desk, self.options.queue.clone());
        let mut pace = std::mem::replace(&mut self.pace, Pace::new(None));
        let mut waiting = None;
        {
            let send = |letter| send(desk, letter, queue.as_deref(), track);
            let paced = paced(letters, &mut pace);
            let mut sent = std::pin::pin!(paced.map(send).buffer_unordered(MOST as usize).ready_chunks(MOST as usize));
            while let Some(sent) = sent.next().await {
                if let Some((more, reason)) = self.settle(sent).await? {
                    waiting = Some((waiting.map_or(0, |(count, _)| count) + more, reason));
                }
            }
        }
        self.pace = pace;
        Ok(waiting)
    }

    async fn settle(&mut self, sent: Vec<Sent>) -> Result<Option<(usize, String)>, Error> {
        let (mut ids, mut events, mut waiting) = (Vec::new(), Vec::new(), None);
        for Sent { id, event, fault } in sent {
            match fault {
                None => {
                    ids.push(id);
                    events.extend(event);
                }
                Some(Fault::Lasting(reason)) => self.failed.push(Failed { id, reason }),
                Some(Fault::Passing(reason)) => waiting = Some((waiting.map_or(0, |(count, _)| count) + 1, reason)),
            }
        }
        self.desk.store.record(&events).await?;
        if !ids.is_empty() {
            self.done.replayed += self.desk.store.replayed(self.done.replay, &ids, self.by()).await?;
        }
        self.done.failed = self.failed.len() as u64;
        (self.progress)(&self.done);
        Ok(waiting)
    }
}

fn paced(letters: Vec<Letter>, pace: &mut Pace) -> impl Stream<Item = Letter> {
    unfold((letters.into_iter(), pace), async |(mut letters, pace)| {
        let letter = letters.next()?;
        pace.turn().await;
        Some((letter, (letters, pace)))
    })
}

async fn send(desk: &Desk, letter: Letter, queue: Option<&str>, track: bool) -> Sent {
    let message = letter::as_it_died(&letter);
    let (about, payload) = (letter.about, letter.payload);
    let id = about.id;
    let queue = queue.unwrap_or(&about.queue);
    let failed = |reason| Sent { id, event: None, fault: Some(Fault::Lasting(reason)) };
    if queue.is_empty() {
        return failed("its queue is not known: name one".to_owned());
    }
    let message = match message {
        Ok(message) => message,
        Err(error) => return failed(error.to_string()),
    };
    let mut replay = desk.broker.publisher().replay(&message, queue).payload(payload);
    if desk.catalogue.has_lanes(&about.job, queue) {
        replay = replay.lanes();
    }
    if track {
        replay = replay.track();
    }
    let event = if track || message.is_tracked() { letter::queued(&message, &about, queue, now_ms()) } else { None };
    Sent { id, event, fault: replay.await.err().map(|error| fault(&error)) }
}

fn fault(error: &PublishError) -> Fault {
    let reason = error.to_string();
    match error {
        PublishError::Uncertain { .. }
        | PublishError::Blocked { .. }
        | PublishError::Unavailable { .. }
        | PublishError::Nacked { .. }
        | PublishError::Closed => Fault::Passing(reason),
        _ => Fault::Lasting(reason),
    }
}
