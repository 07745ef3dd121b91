//! Tells the steps of tracked jobs. The last step of a job is confirmed before the job is settled (`settle`); the others
//! go through here, and never hold a job up: what cannot be told at once, because the broker is away or slow, is lost
//! and counted.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    job::JobId,
    message::Message,
    topology::Target,
    tracking::status_update::StatusUpdate,
    transport::{SendError, Transport},
};

/// Steps that wait to be told; more are lost.
const QUEUED: usize = 4_096;
/// Steps that are published at once.
const AT_ONCE: usize = 256;
/// After a refusal one step is tried so often. Each such no closes the channel under all publishes.
const TRY_EVERY: Duration = Duration::from_secs(60);
/// The property `type` of what is told.
pub(crate) const EVENT: &str = "leveret.event";

#[derive(Default)]
pub(crate) struct StatusEmitter {
    queue: Mutex<Option<mpsc::Sender<StatusUpdate>>>,
    permission: Arc<Permission>,
}

/// Whether the broker lets this user publish status updates.
#[derive(Default)]
struct Permission {
    /// After a refusal: when to try again.
    next_try: Mutex<Option<Instant>>,
}

impl StatusUpdate {
    /// Where it is told, and the message that tells it.
    pub(crate) fn into_message(self) -> (Target, Box<Message>) {
        let target = Target::Event(self.step.name(), self.queue.clone());
        // Strings, numbers and the JSON of a result: all of it can be written.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (target, Box::new(Message::new(EVENT, &JobId::from(self.id), body, self.at)))
    }
}

impl StatusEmitter {
    /// Tells a step without waiting for it.
    pub(crate) fn report(&self, transport: &Transport, event: StatusUpdate) {
        if !self.may_report() {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // Closed: the runtime on which its task ran has ended.
        if queue.as_ref().is_some_and(mpsc::Sender::is_closed) {
            *queue = None;
        }
        let queue = queue.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUED);
            tokio::spawn(publish(transport.downgrade(), Arc::clone(&self.permission), receiver));
            sender
        });
        if queue.try_send(event).is_err() {
            transport.metrics().events_lost.inc();
        }
    }

    /// See [`Permission::may_report`].
    pub(crate) fn may_report(&self) -> bool {
        self.permission.may_report()
    }

    pub(crate) fn accepted(&self) {
        self.permission.accepted();
    }

    pub(crate) fn is_refused_by(&self, error: &SendError) -> bool {
        self.permission.is_refused_by(error)
    }
}

impl Permission {
    /// Whether a step is to be told. Once the broker has refused one, the first that comes after a pause is, to see
    /// whether somebody has granted the right.
    fn may_report(&self) -> bool {
        let (mut next_try, now) = (self.next_try(), Instant::now());
        let may = next_try.is_none_or(|at| at <= now);
        if may && next_try.is_some() {
            *next_try = Some(now + TRY_EVERY);
        }
        may
    }

    /// The broker has taken a step.
    fn accepted(&self) {
        if self.next_try().take().is_some() {
            tracing::info!("the steps of tracked jobs are told again");
        }
    }

    /// Whether the broker does not let this user tell anything, now that it has answered so.
    fn is_refused_by(&self, error: &SendError) -> bool {
        let mut next_try = self.next_try();
        if let SendError::Refused(reason) = error
            && reason.contains("ACCESS_REFUSED")
            && next_try.replace(Instant::now() + TRY_EVERY).is_none()
        {
            tracing::error!(
                error = reason,
                "the steps of tracked jobs cannot be told: grant the write right on the exchange; tried once a minute"
            );
        }
        next_try.is_some()
    }

    fn next_try(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_try.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes steps as long as their broker's handle exists.
async fn publish(
    transport: impl Fn() -> Option<Transport>,
    permission: Arc<Permission>,
    mut queue: mpsc::Receiver<StatusUpdate>,
) {
    let mut events = Vec::with_capacity(AT_ONCE);
    while queue.recv_many(&mut events, AT_ONCE).await > 0 {
        let Some(transport) = transport() else { return };
        let sends = events.drain(..).map(async |event| {
            let (target, message) = event.into_message();
            match transport.send(&target, message, true).await {
                Ok(()) => permission.accepted(),
                Err(error) => {
                    permission.is_refused_by(&error);
                    transport.metrics().events_lost.inc();
                }
            }
        });
        join_all(sends).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_refusal_one_step_a_minute_is_tried_until_one_is_taken() {
        let (emitter, refused) = (StatusEmitter::default(), SendError::Refused("ACCESS_REFUSED - no".into()));
        assert!(!emitter.is_refused_by(&SendError::Uncertain) && emitter.may_report());
        assert!(emitter.is_refused_by(&refused) && !emitter.may_report());
        tokio::time::advance(TRY_EVERY).await;
        assert!(emitter.may_report() && !emitter.may_report(), "the first, and no other");
        assert!(emitter.is_refused_by(&refused) && !emitter.may_report());
        tokio::time::advance(TRY_EVERY).await;
        assert!(emitter.may_report());
        emitter.accepted();
        assert!(emitter.may_report() && emitter.may_report());
    }
}
