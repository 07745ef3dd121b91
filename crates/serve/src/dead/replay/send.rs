//! Publishes one dead letter again.

use futures_util::{Stream, stream::unfold};
use leveret::{PublishError, status_update::StatusUpdate, time::now_ms};
use leveret_store::StoredDeadLetter;

use crate::dead::{letter, service::DeadLetterService, throttle::Throttle};

/// The result of one publish.
pub(super) struct SentLetter {
    pub(super) id: i64,
    pub(super) update: Option<StatusUpdate>,
    pub(super) fault: Option<PublishFault>,
}

pub(super) enum PublishFault {
    /// Another try fails in the same way.
    Lasting(String),
    /// The broker is unreachable, or did not confirm.
    Passing(String),
}

pub(super) fn paced(letters: Vec<StoredDeadLetter>, throttle: &mut Throttle) -> impl Stream<Item = StoredDeadLetter> {
    unfold((letters.into_iter(), throttle), async |(mut letters, throttle)| {
        let letter = letters.next()?;
        throttle.wait().await;
        Some((letter, (letters, throttle)))
    })
}

pub(super) async fn send(
    dead: &DeadLetterService,
    letter: StoredDeadLetter,
    queue: Option<&str>,
    track: bool,
) -> SentLetter {
    let message = letter::as_it_died(&letter);
    let (about, payload) = (letter.about, letter.payload);
    let id = about.id;
    let queue = queue.unwrap_or(&about.queue);
    let failed = |reason| SentLetter { id, update: None, fault: Some(PublishFault::Lasting(reason)) };
    if queue.is_empty() {
        return failed("its queue is not known: name one".to_owned());
    }
    let message = match message {
        Ok(message) => message,
        Err(error) => return failed(error.to_string()),
    };
    match letter::refusal_of_workflow(&message, &dead.store).await {
        Ok(None) => {}
        Ok(Some(reason)) => return failed(reason.to_owned()),
        Err(error) => {
            return SentLetter { id, update: None, fault: Some(PublishFault::Passing(error.to_string())) };
        }
    }
    let mut replay = dead.broker.publisher().replay(&message, queue).payload(payload);
    if dead.catalogue.has_lanes(&about.job, queue) {
        replay = replay.lanes();
    }
    if track {
        replay = replay.track();
    }
    let tracking_id =
        if track || message.is_tracked() { letter::tracking_id(&message, queue, &dead.catalogue) } else { None };
    let update = tracking_id.map(|id| letter::queued(id, &message, &about, queue, now_ms()));
    SentLetter { id, update, fault: replay.await.err().map(|error| fault(&error)) }
}

fn fault(error: &PublishError) -> PublishFault {
    let reason = error.to_string();
    match error {
        PublishError::Uncertain { .. }
        | PublishError::Blocked { .. }
        | PublishError::Unavailable { .. }
        | PublishError::Nacked { .. }
        | PublishError::Closed => PublishFault::Passing(reason),
        _ => PublishFault::Lasting(reason),
    }
}
