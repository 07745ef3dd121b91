//! Brings a job back that was given up: its dead letter is published again, under the same id.

use std::time::Duration;

use leveret::{
    event::{JobEvent, Step},
    feed::RawMessage,
};
use leveret_store::{By, DeadFilter, Job, Letter, Selection, State};
use tokio::time::{Instant, sleep};

use super::{Error, Status};
use crate::{Services, recorder::Room, services::to_the_end, time::now_ms};

/// A job's end is told before its dead letter is in the store.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

impl Services {
    /// Runs a job again that was given up, from its first attempt on.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Conflict`] for a job that was not given up, [`Error::NoLetter`],
    /// [`Error::StoreAway`], [`Error::Store`], [`Error::Publish`].
    pub async fn retry(&self, id: &str, actor: &str) -> Result<(), Error> {
        let job = self.known(id).await?;
        if job.state != State::Dead {
            let reason = "only what has failed can be retried";
            return Err(Error::Conflict { status: Status::of(&job, now_ms()), reason });
        }
        let room = self.recorder.room(1).ok_or(Error::StoreAway)?;
        let letter = self.letter_of(&job).await?;
        to_the_end(self.clone().replay(job, letter, actor.to_owned(), room)).await
    }

    async fn replay(self, job: Job, letter: i64, actor: String, room: Room) -> Result<(), Error> {
        let by = By { actor: &actor, at: now_ms() };
        let options = serde_json::json!({ "retry": job.id });
        let replay = self.store.start_replay(&Selection::Ids(vec![letter]), &options, by).await?;
        // Somebody else may have been faster.
        let Some(letter) = self.store.next_of_replay(replay.id, 0, 1).await?.pop() else {
            self.store.finish_replay(replay.id, "nothing to do", by).await?;
            return Err(Error::NoLetter);
        };
        let published = self.publish_letter(&letter).await;
        if published.is_ok() {
            self.store.replayed(replay.id, &[letter.about.id], by).await?;
        }
        let outcome = if published.is_ok() { "done" } else { "failed" };
        self.store.finish_replay(replay.id, outcome, by).await?;
        published?;
        self.recorder.record(vec![queued_again(job, by.at, letter.about.hop)], room).await;
        Ok(())
    }

    /// The dead letter of this end of the job.
    async fn letter_of(&self, job: &Job) -> Result<i64, Error> {
        let deadline = Instant::now() + TAKEN_IN_WITHIN;
        let filter = DeadFilter { job_id: Some(job.id.clone()), ..DeadFilter::default() };
        loop {
            let letters = self.store.dead_letters(&filter, None, 10).await?;
            if let Some(letter) = letters.items.iter().max_by_key(|letter| letter.hop) {
                return Ok(letter.id);
            }
            if Instant::now() >= deadline {
                return Err(Error::NoLetter);
            }
            sleep(PAUSE).await;
        }
    }

    async fn publish_letter(&self, letter: &Letter) -> Result<(), Error> {
        let message = RawMessage::from_parts(&letter.properties, letter.payload.clone());
        let message = message.map_err(|_| Error::NoLetter)?;
        self.publisher.replay(&message, &letter.about.queue).track().await?;
        Ok(())
    }
}

fn queued_again(job: Job, at: u64, hop: u32) -> JobEvent {
    JobEvent {
        id: job.id,
        job: job.job,
        queue: job.queue,
        label: job.label,
        priority: job.priority,
        attempt: 1,
        hop: hop + 1,
        enqueued_at: Some(job.created_at),
        at,
        worker: None,
        step: Step::Queued { due: None, expires: None },
    }
}
