//! Retries a failed job: its dead letter is published again, under the same id.

use std::time::Duration;

use leveret::{
    status_update::{StatusUpdate, Transition},
    time::{at_unix_ms, now_ms},
};
use leveret_store::{AuditStamp, DeadFilter, DeadLetter, DeadState, JobState, Selection, StoredDeadLetter, TrackedJob};
use tokio::time::{Instant, sleep};

use super::{error::Error, task::Status};
use crate::{
    dead::{self, letter, replay::ReplayOptions},
    detached::run_detached,
    recorder::Reservation,
    services::Services,
};

/// Longest wait for a dead letter: the status of a job may arrive before it.
const INGESTED_WITHIN: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
/// Bounds the search among dead letters with one job id, in pages of a hundred. Only a publisher that reuses an id on
/// purpose makes more.
const MOST_PAGES: usize = 100;

impl Services {
    /// Runs a failed job again, from its first attempt on.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Conflict`] for a job that has not failed, [`Error::NoLetter`],
    /// [`Error::StoreAway`], [`Error::Store`], [`Error::Publish`].
    pub async fn retry(&self, id: &str, actor: &str) -> Result<(), Error> {
        let job = self.known(id).await?;
        if job.state != JobState::Dead {
            let reason = "only a failed task can be retried";
            return Err(Error::Conflict { status: Status::of(&job, now_ms()), reason });
        }
        let reservation = self.recorder.reserve(1).ok_or(Error::StoreAway)?;
        let letter = self.letter_of(&job).await?;
        if letter.state == DeadState::Replaying {
            return Err(being_replayed(&job));
        }
        run_detached(self.clone().replay(job, letter.id, actor.to_owned(), reservation)).await
    }

    async fn replay(self, job: TrackedJob, letter: i64, actor: String, reservation: Reservation) -> Result<(), Error> {
        let by = AuditStamp { actor: &actor, at: now_ms() };
        // Another server resumes the replay with these options if this one is killed or loses the store.
        let options = ReplayOptions { track: true, ..ReplayOptions::default() };
        let lease = match self.dead.start(&Selection::Ids(vec![letter]), &options, &actor).await {
            Ok(lease) => lease,
            Err(dead::Error::Store(error)) => return Err(error.into()),
            Err(_) => return Err(being_replayed(&job)),
        };
        let replay = lease.replay().id;
        // Another request may have replayed the letter first.
        let Some(letter) = self.store.next_of_replay(replay, 0, 1).await?.pop() else {
            self.store.finish_replay(replay, &lease.owner, "nothing to do", by).await?;
            return Err(being_replayed(&job));
        };
        let published = lease.keep(&self.store, self.publish_letter(&letter, &job)).await;
        let published = published.ok_or_else(|| being_replayed(&job))?;
        if published.is_ok() {
            self.store.replayed(replay, &[letter.about.id], by).await?;
        }
        let outcome = if published.is_ok() { "done" } else { "failed" };
        self.store.finish_replay(replay, &lease.owner, outcome, by).await?;
        published?;
        self.recorder.record(vec![queued_again(job, by.at, letter.about.hop)], reservation).await;
        Ok(())
    }

    /// The dead letter of this failure of the job.
    async fn letter_of(&self, job: &TrackedJob) -> Result<DeadLetter, Error> {
        let deadline = Instant::now() + INGESTED_WITHIN;
        loop {
            if let Some(letter) = self.find_letter(job, deadline).await? {
                return Ok(letter);
            }
            if Instant::now() >= deadline {
                return Err(Error::NoLetter);
            }
            sleep(PAUSE).await;
        }
    }

    /// The same, if the store has the letter by now. After the deadline it checks no further letter.
    async fn find_letter(&self, job: &TrackedJob, deadline: Instant) -> Result<Option<DeadLetter>, Error> {
        // The dead letter of an event has the event's id, which is part of the id of its status.
        let id = job.job_id();
        let of_event = id.strip_suffix(&format!("@{}", job.queue));
        for id in [Some(id.as_str()), of_event].into_iter().flatten() {
            if let Some(letter) = self.find_letter_with(id, job, deadline).await? {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    async fn find_letter_with(
        &self,
        id: &str,
        job: &TrackedJob,
        deadline: Instant,
    ) -> Result<Option<DeadLetter>, Error> {
        let states = vec![DeadState::Dead, DeadState::Replaying];
        let filter = DeadFilter { states, job_id: Some(id.to_owned()), ..DeadFilter::default() };
        let mut after = None;
        for _ in 0..MOST_PAGES {
            let letters = self.store.dead_letters(&filter, after.as_ref(), 100).await?;
            for letter in letters.items {
                if self.is_end_of(&letter, job).await? {
                    return Ok(Some(letter));
                }
                if Instant::now() >= deadline {
                    return Ok(None);
                }
            }
            after = letters.next;
            if after.is_none() {
                break;
            }
        }
        Ok(None)
    }

    /// Returns whether a dead letter is from this failure of this job, and not from another message with its id.
    async fn is_end_of(&self, letter: &DeadLetter, job: &TrackedJob) -> Result<bool, Error> {
        // A worker's copy is one hop further. The broker dead-letters the message itself.
        if letter.hop != job.hop && letter.hop != job.hop.saturating_add(1) {
            return Ok(false);
        }
        // All copies of an event have one origin.
        if letter.job_id.as_deref() != Some(job.job_id().as_str()) && letter.queue != job.queue {
            return Ok(false);
        }
        let Some(origin) = &job.origin else { return Ok(letter.job == job.job && letter.queue == job.queue) };
        let Some(letter) = self.store.letter(letter.id).await? else { return Ok(false) };
        Ok(letter::as_it_died(&letter).is_ok_and(|message| message.origin_digest() == *origin))
    }

    async fn publish_letter(&self, letter: &StoredDeadLetter, job: &TrackedJob) -> Result<(), Error> {
        let message = letter::as_it_died(letter).map_err(|_| Error::NoLetter)?;
        if let Some(reason) = letter::refusal_of_workflow(&message, &self.store).await? {
            return Err(Error::Conflict { status: Status::of(job, now_ms()), reason });
        }
        let replay = self.publisher.replay(&message, &letter.about.queue).payload(letter.payload.clone());
        let mut replay = replay.track();
        if self.catalogue.has_lanes(&letter.about.job, &letter.about.queue) {
            replay = replay.lanes();
        }
        replay.await?;
        Ok(())
    }
}

fn being_replayed(job: &TrackedJob) -> Error {
    let reason = "its dead letter is being replayed; an interrupted replay resumes by itself";
    Error::Conflict { status: Status::of(job, now_ms()), reason }
}

fn queued_again(job: TrackedJob, at: u64, hop: u32) -> StatusUpdate {
    StatusUpdate {
        id: job.job_id(),
        job: job.job,
        queue: job.queue,
        origin: job.origin,
        label: job.label,
        priority: job.priority,
        attempt: 1,
        hop: hop + 1,
        enqueued_at: Some(at_unix_ms(job.created_at)),
        at: at_unix_ms(at),
        worker: None,
        transition: Transition::Queued { due: None, expires: None },
    }
}
