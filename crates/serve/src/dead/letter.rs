//! What a message from a dead-letter queue says: as the store keeps it, and as its job's status tells it.

use leveret::{
    ErrorKind,
    event::{JobEvent, Step},
    feed::{RawMessage, Taken, Unreadable},
};
use leveret_store::{DeadLetter, DeadSource, DeadState, Letter, NewDead, fingerprint};

/// The class of what fitted no queue, next to those of [`ErrorKind`].
pub const UNROUTED: &str = "unrouted";
/// The class of what nobody said a reason for.
pub const UNKNOWN: &str = "unknown";
/// In bytes, as long as AMQP allows names to be.
const LONGEST_NAME: usize = 255;

/// What was taken from `<queue>.dead`, or from the unrouted with the job queue as far as it is known.
#[must_use]
pub fn as_new(taken: &Taken, source: DeadSource, queue: &str) -> NewDead {
    let (message, letter) = (taken.message(), taken.message().dead_letter());
    let (kind, error) = reason(message, source, letter.kind, letter.reason);
    NewDead {
        source,
        queue: name(queue),
        job_id: letter.id,
        job: name(&letter.job.unwrap_or_default()),
        kind,
        error,
        attempt: letter.attempt,
        hop: message.hop(),
        failed_at: message.failed_at(),
        properties: message.properties(),
        payload: letter.payload,
    }
}

/// A name from a header may be of any length, and an index of PostgreSQL holds only what is short. No queue and no job
/// that can be published has a longer one; the properties keep it whole.
fn name(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_NAME)].to_owned()
}

/// What the store does not hold as it is, for whatever reason: the message as it came, and why nothing is said of it.
#[must_use]
pub fn unreadable(new: &NewDead, reason: &str) -> NewDead {
    NewDead {
        source: new.source,
        queue: String::new(),
        job_id: None,
        job: String::new(),
        kind: UNKNOWN.to_owned(),
        error: format!("the store could not hold what it says of itself: {reason}"),
        ..new.clone()
    }
}

/// As [`as_new`], for a list or an export without a store.
#[must_use]
pub fn as_letter(taken: &Taken, queue: &str, number: i64, now: u64) -> Letter {
    let new = as_new(taken, DeadSource::Dead, queue);
    let about = DeadLetter {
        id: number,
        source: new.source,
        queue: new.queue,
        job_id: new.job_id,
        fingerprint: fingerprint(&new.job, &new.kind, &new.error).0,
        job: new.job,
        kind: new.kind,
        error: new.error,
        attempt: new.attempt,
        hop: new.hop,
        failed_at: new.failed_at.unwrap_or(now),
        taken_at: now,
        state: DeadState::Dead,
        state_at: now,
        replay_id: None,
        payload_bytes: new.payload.len() as u64,
        edited: false,
    };
    Letter { about, properties: new.properties, payload: new.payload, original: None }
}

/// A worker writes both down; the broker writes a kind, and leaves what the attempt before it said.
fn reason(message: &RawMessage, source: DeadSource, kind: Option<ErrorKind>, said: String) -> (String, String) {
    if source == DeadSource::Unrouted && (kind.is_none() || is_of_broker(message)) {
        let error = if said.is_empty() { String::new() } else { format!("; the attempt before: {said}") };
        return (UNROUTED.to_owned(), format!("its queue is gone{error}"));
    }
    let Some(kind) = kind else { return (UNKNOWN.to_owned(), said) };
    let of_broker = match kind {
        ErrorKind::CrashLoop => "it came back without an outcome too often",
        ErrorKind::TooLarge => "no copy of it could be made",
        ErrorKind::Expired => "its time to live was over",
        _ => "",
    };
    let error = if said.is_empty() { of_broker.to_owned() } else { said };
    (kind.to_string(), error)
}

/// Whether the broker itself moved it: then it is the message that the worker had, and not a copy.
fn is_of_broker(message: &RawMessage) -> bool {
    message.fields().iter().any(|(name, _)| name == "x-death")
}

/// The end of a tracked job, in the place where its worker tells it: for those whose worker could not.
#[must_use]
pub fn death(message: &RawMessage, letter: &NewDead, now: u64) -> Option<JobEvent> {
    let id = letter.job_id.clone().filter(|_| message.is_tracked())?;
    Some(JobEvent {
        id,
        job: letter.job.clone(),
        queue: letter.queue.clone(),
        origin: Some(message.origin()),
        label: message.label().map(str::to_owned),
        priority: None,
        attempt: letter.attempt,
        hop: if is_of_broker(message) { letter.hop } else { letter.hop.saturating_sub(1) },
        enqueued_at: None,
        at: letter.failed_at.unwrap_or(now),
        worker: None,
        step: Step::Dead { kind: letter.kind.clone(), error: letter.error.clone() },
    })
}

/// The message with the payload that it died with: without an origin header, its origin is a digest of that payload.
pub(crate) fn as_it_died(letter: &Letter) -> Result<RawMessage, Unreadable> {
    RawMessage::from_parts(&letter.properties, letter.original.as_ref().unwrap_or(&letter.payload).clone())
}

/// The begin of a job's next life, on `queue`.
#[must_use]
pub fn queued(message: &RawMessage, letter: &DeadLetter, queue: &str, now: u64) -> Option<JobEvent> {
    Some(JobEvent {
        id: letter.job_id.clone()?,
        job: letter.job.clone(),
        queue: queue.to_owned(),
        origin: Some(message.origin()),
        label: message.label().map(str::to_owned),
        priority: None,
        attempt: 1,
        hop: message.hop().saturating_add(1),
        enqueued_at: None,
        at: now,
        worker: None,
        step: Step::Queued { due: None, expires: None },
    })
}
