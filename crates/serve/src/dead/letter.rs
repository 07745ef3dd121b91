//! Reads a message from a dead-letter queue, for the store and for the job's status.

use leveret::{
    ErrorKind,
    catalogue::Catalogue,
    reader::{RawMessage, ReadMessage, Unreadable},
    status_update::{StatusUpdate, Transition},
    time::{at_unix_ms, unix_ms},
    workflow::{Role, StepEnd, StepOutcome, engine::Phase},
};
use leveret_store::{DeadLetter, DeadSource, DeadState, NewDead, Store, StoredDeadLetter, fingerprint};

/// The error class of a message whose queue does not exist, beside those of [`ErrorKind`].
pub const UNROUTED: &str = "unrouted";
/// The error class of a message without a reason.
pub const UNKNOWN: &str = "unknown";
/// The greatest length of a name in AMQP, in bytes.
const LONGEST_NAME: usize = 255;

/// A dead letter for the store, from `<queue>.dead` or from the unrouted messages. `queue` is empty if it is not known.
#[must_use]
pub fn as_new(taken: &ReadMessage, source: DeadSource, queue: &str) -> NewDead {
    let (message, letter) = (taken.message(), taken.message().dead_letter());
    let (kind, error) = reason(message, source, letter.kind, letter.reason);
    NewDead {
        source,
        queue: name(queue),
        job_id: letter.id.map(String::from),
        job: name(&letter.job.unwrap_or_default()),
        kind,
        error,
        attempt: letter.attempt,
        hop: message.hop(),
        failed_at: message.failed_at().map(unix_ms),
        properties: message.properties(),
        payload: letter.payload,
    }
}

/// Cuts a name from a header, which may have any length: an index of PostgreSQL holds short texts only. A queue or job that
/// can be published has no longer name, and the properties keep the whole one.
fn name(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_NAME)].to_owned()
}

/// A letter whose fields the store refuses: the message alone, with the reason.
#[must_use]
pub fn unreadable(new: &NewDead, reason: &str) -> NewDead {
    NewDead {
        source: new.source,
        queue: String::new(),
        job_id: None,
        job: String::new(),
        kind: UNKNOWN.to_owned(),
        error: format!("the store refused its fields: {reason}"),
        ..new.clone()
    }
}

/// A dead letter for a list or an export without a store.
#[must_use]
pub fn as_letter(taken: &ReadMessage, queue: &str, number: i64, now: u64) -> StoredDeadLetter {
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
    StoredDeadLetter { about, properties: new.properties, payload: new.payload, original: None }
}

/// The class and text of the error. A worker writes both. The broker writes a class only, and keeps the text of the last
/// attempt.
fn reason(message: &RawMessage, source: DeadSource, kind: Option<ErrorKind>, said: String) -> (String, String) {
    if source == DeadSource::Unrouted && (kind.is_none() || is_of_broker(message)) {
        let error = if said.is_empty() { String::new() } else { format!("; the attempt before: {said}") };
        return (UNROUTED.to_owned(), format!("its queue does not exist{error}"));
    }
    let Some(kind) = kind else { return (UNKNOWN.to_owned(), said) };
    let of_broker = match kind {
        ErrorKind::CrashLoop => "it was delivered too often without an outcome",
        ErrorKind::TooLarge => "no copy of it could be made",
        ErrorKind::Expired => "its time to live ended",
        _ => "",
    };
    let error = if said.is_empty() { of_broker.to_owned() } else { said };
    (kind.to_string(), error)
}

/// Returns whether the broker moved the message itself: then it is the worker's message and not a copy.
fn is_of_broker(message: &RawMessage) -> bool {
    message.fields().iter().any(|(name, _)| name == "x-death")
}

/// The final status update of a tracked job whose worker could not publish it. It replaces the worker's own.
#[must_use]
pub fn death(message: &RawMessage, letter: &NewDead, now: u64) -> Option<StatusUpdate> {
    let id = message.tracking_id(&letter.queue).filter(|_| message.is_tracked())?;
    Some(StatusUpdate {
        id: id.into(),
        job: letter.job.clone(),
        queue: letter.queue.clone(),
        origin: Some(message.origin_digest()),
        label: message.label().map(str::to_owned),
        priority: None,
        attempt: letter.attempt,
        hop: if is_of_broker(message) { letter.hop } else { letter.hop.saturating_sub(1) },
        enqueued_at: None,
        at: at_unix_ms(letter.failed_at.unwrap_or(now)),
        worker: None,
        transition: Transition::Dead { kind: letter.kind.clone(), error: letter.error.clone() },
    })
}

/// The end of the step of a workflow that has become a dead letter. Its worker has reported it, unless the broker moved the
/// message: the first report counts.
#[must_use]
pub fn step_end(message: &RawMessage, letter: &NewDead, now: u64) -> Option<StepEnd> {
    Some(StepEnd {
        of: message.step()?,
        origin: message.origin(),
        attempt: letter.attempt,
        started_at: None,
        at: at_unix_ms(letter.failed_at.unwrap_or(now)),
        replayed_at: message.replayed_at(),
        worker: None,
        outcome: StepOutcome::failed(&letter.kind, &letter.error),
    })
}

/// Returns the message with its original payload: without an origin header, its origin is a digest of that payload.
pub(crate) fn as_it_died(letter: &StoredDeadLetter) -> Result<RawMessage, Unreadable> {
    RawMessage::from_parts(&letter.properties, letter.original.as_ref().unwrap_or(&letter.payload).clone())
}

/// Returns why a step of a workflow must not run again, if nothing would undo what it does. A job that undoes must run.
pub(crate) async fn refusal_of_workflow(
    message: &RawMessage,
    store: &Store,
) -> leveret_store::Result<Option<&'static str>> {
    let Some(step) = message.step().filter(|step| step.role == Role::Step) else { return Ok(None) };
    Ok(match store.workflow(&step.workflow).await? {
        None => Some("its workflow is not known any more: start another one"),
        Some(workflow) if workflow.state.is_final() => Some("its workflow is undone or cancelled: start another one"),
        // The workflow does not know of a replay before its end, and would compensate other steps meanwhile.
        Some(workflow) if workflow.state.phase == Phase::Stopping => {
            Some("its workflow is stopping: retry the step (leveret workflows retry) or wait for the end of the others")
        }
        Some(_) => None,
    })
}

/// The id under which the worker of `queue` will report on a replayed letter. The letter may come from another queue.
pub(crate) fn tracking_id(message: &RawMessage, queue: &str, catalogue: &Catalogue) -> Option<String> {
    let id = message.tracking_id(queue)?;
    let is_event = catalogue.is_subscription(queue);
    Some(if is_event { format!("{}@{queue}", message.dead_letter().id?) } else { id })
}

/// The first status update of a replayed job, on `queue`, under its `id` there.
#[must_use]
pub fn queued(id: String, message: &RawMessage, letter: &DeadLetter, queue: &str, now: u64) -> StatusUpdate {
    StatusUpdate {
        id: id.into(),
        job: letter.job.clone(),
        queue: queue.to_owned(),
        origin: Some(message.origin_digest()),
        label: message.label().map(str::to_owned),
        priority: None,
        attempt: 1,
        hop: message.hop().saturating_add(1),
        enqueued_at: None,
        at: at_unix_ms(now),
        worker: None,
        transition: Transition::Queued { due: None, expires: None },
    }
}
