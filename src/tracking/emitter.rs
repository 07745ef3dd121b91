//! Publishes status updates of tracked jobs.
//!
//! The last update of a job is confirmed before the job is settled (`settle`). All others go through this module and
//! never delay a job. An update that cannot be published at once, because the broker is unreachable or slow, is lost
//! and counted.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    message::Message,
    time::unix_ms,
    topology::Target,
    tracking::status_update::StatusUpdate,
    transport::{SendError, Transport},
};

/// Most status updates that wait to be published; further ones are lost.
const QUEUED: usize = 4_096;
/// Most status updates that are published at once.
const AT_ONCE: usize = 256;
/// Pause between attempts after a refusal. Each refusal closes the channel with all its publishes.
const TRY_EVERY: Duration = Duration::from_secs(60);
/// The property `type` of a status update.
pub(crate) const STATUS_UPDATE: &str = "leveret.event";

#[derive(Default)]
pub(crate) struct StatusEmitter {
    queue: Mutex<Option<mpsc::Sender<StatusUpdate>>>,
    permission: Arc<Permission>,
}

/// The known permission of this user to publish status updates.
#[derive(Default)]
struct Permission {
    /// After a refusal: the time of the next attempt.
    next_try: Mutex<Option<Instant>>,
}

impl StatusUpdate {
    /// Returns its target and its message.
    pub(crate) fn into_message(self) -> (Target, Box<Message>) {
        let target = Target::StatusUpdate(self.transition.name(), self.queue.clone());
        // Strings, numbers and the JSON of a result always serialise.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (target, Box::new(Message::new(STATUS_UPDATE, &self.id, body, unix_ms(self.at))))
    }
}

impl StatusEmitter {
    /// Publishes a status update in the background.
    pub(crate) fn report(&self, transport: &Transport, update: StatusUpdate) {
        if !self.may_report() {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // The channel is closed when the runtime of its task has ended.
        if queue.as_ref().is_some_and(mpsc::Sender::is_closed) {
            *queue = None;
        }
        let queue = queue.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUED);
            tokio::spawn(publish(transport.downgrade(), Arc::clone(&self.permission), receiver));
            sender
        });
        if queue.try_send(update).is_err() {
            transport.metrics().status_updates_lost.inc();
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
    /// Returns whether a status update may be published. After a refusal, one update after each pause is published to
    /// test whether the permission was granted.
    fn may_report(&self) -> bool {
        let (mut next_try, now) = (self.next_try(), Instant::now());
        let may = next_try.is_none_or(|at| at <= now);
        if may && next_try.is_some() {
            *next_try = Some(now + TRY_EVERY);
        }
        may
    }

    /// Records that the broker accepted a status update.
    fn accepted(&self) {
        if self.next_try().take().is_some() {
            tracing::info!("publishing status updates again");
        }
    }

    /// Returns whether the broker refuses this user's status updates, after this answer.
    fn is_refused_by(&self, error: &SendError) -> bool {
        let mut next_try = self.next_try();
        if let SendError::Refused(reason) = error
            && reason.contains("ACCESS_REFUSED")
            && next_try.replace(Instant::now() + TRY_EVERY).is_none()
        {
            tracing::error!(
                error = reason,
                "cannot publish status updates: grant write permission on the exchange; retried once a minute"
            );
        }
        next_try.is_some()
    }

    fn next_try(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_try.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes status updates for as long as the handle of their broker exists.
async fn publish(
    transport: impl Fn() -> Option<Transport>,
    permission: Arc<Permission>,
    mut queue: mpsc::Receiver<StatusUpdate>,
) {
    let mut updates = Vec::with_capacity(AT_ONCE);
    while queue.recv_many(&mut updates, AT_ONCE).await > 0 {
        let Some(transport) = transport() else { return };
        let sends = updates.drain(..).map(async |update| {
            let (target, message) = update.into_message();
            match transport.send(&target, message, true).await {
                Ok(()) => permission.accepted(),
                Err(error) => {
                    permission.is_refused_by(&error);
                    transport.metrics().status_updates_lost.inc();
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
    async fn after_a_refusal_one_status_update_a_minute_is_tried_until_one_is_accepted() {
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
