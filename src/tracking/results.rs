//! The ends of tracked jobs that this process waits for. All waiting publishers of a broker handle share one
//! subscription to the last status updates.
//!
//! The subscription begins before the first of these jobs is published, and ends after a minute without one. It is not
//! continued after a lost connection, because the broker deletes its queue, and the ends of jobs are lost meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::{interval, timeout},
};

use crate::{
    message::Message,
    tracking::status_update::{StatusUpdate, Transition},
    transport::{Transport, session::Session},
};

/// The time without waiting publishers after which the subscription ends.
const IDLE: Duration = Duration::from_secs(60);
/// Longest wait for the subscription, after which the task does not keep the connections open any longer.
const OPENED_WITHIN: Duration = Duration::from_secs(60);

/// The subscription of a broker handle, if there is one.
#[derive(Default)]
pub(crate) struct Results {
    listener: Mutex<Option<Arc<Listener>>>,
}

struct Listener {
    /// The waits by the ids of their jobs; `None` once the subscription has ended.
    waits: Mutex<Option<HashMap<String, Vec<Wait>>>>,
    /// The outcome of opening the subscription; `None` before that is known.
    opened: watch::Sender<Option<Result<(), String>>>,
}

struct Wait {
    origin: String,
    end: oneshot::Sender<Transition>,
}

/// A wait for the end of one job; dropping it ends the wait.
pub(crate) struct ResultWaiter {
    listener: Arc<Listener>,
    id: String,
    receiver: oneshot::Receiver<Transition>,
    has_ended: bool,
    end: Option<Transition>,
}

impl Results {
    /// Waits until the subscription is open, and returns the wait for the end of a job. The job is published
    /// afterwards, so its end cannot be missed.
    ///
    /// # Errors
    ///
    /// The reason why the broker refuses the subscription.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait.
    pub(crate) async fn wait_for(&self, transport: &Transport, id: &str, origin: &str) -> Result<ResultWaiter, String> {
        let waiter = self.register(transport, id, origin);
        let mut opened = waiter.listener.opened.subscribe();
        let opened = opened.wait_for(Option::is_some).await.ok().and_then(|opened| opened.clone());
        opened.unwrap_or_else(|| Err("the subscription ended".to_owned())).map(|()| waiter)
    }

    /// Adds a wait to the current subscription, or to a new one.
    fn register(&self, transport: &Transport, id: &str, origin: &str) -> ResultWaiter {
        let mut current = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiter) = current.as_ref().and_then(|listener| listener.add(id, origin)) {
            return waiter;
        }
        loop {
            let (waits, (opened, _)) = (Mutex::new(Some(HashMap::new())), watch::channel(None));
            let listener = Arc::new(Listener { waits, opened });
            *current = Some(Arc::clone(&listener));
            if let Some(waiter) = listener.add(id, origin) {
                // Spawned with a wait in place, so that it does not end as idle.
                tokio::spawn(listen(transport.clone(), EndGuard(listener)));
                return waiter;
            }
        }
    }
}

impl Listener {
    /// Adds a wait, unless the subscription has ended.
    fn add(self: &Arc<Self>, id: &str, origin: &str) -> Option<ResultWaiter> {
        let (end, receiver) = oneshot::channel();
        let wait = Wait { origin: origin.to_owned(), end };
        self.lock().as_mut()?.entry(id.to_owned()).or_default().push(wait);
        Some(ResultWaiter { listener: Arc::clone(self), id: id.to_owned(), receiver, has_ended: false, end: None })
    }

    /// Passes a status update to those who wait for it.
    fn see(&self, message: &Message) {
        let Some(id) = message.id() else { return };
        let mut waits = self.lock();
        // Most updates are of other processes' jobs, and are not read.
        let Some(of_id) = waits.as_mut().and_then(|waits| waits.get_mut(id)) else { return };
        let Ok(update) = serde_json::from_slice::<StatusUpdate>(&message.body) else { return };
        let Some(update) = update.bounded().filter(|update| update.id == id && update.transition.is_terminal()) else {
            return;
        };
        for wait in of_id.extract_if(.., |wait| Some(&wait.origin) == update.origin.as_ref()) {
            // A waiter that was dropped meanwhile has no use for it.
            drop(wait.end.send(update.transition.clone()));
        }
    }

    /// Ends the subscription if no caller waits.
    fn end_if_idle(&self) -> bool {
        let mut waits = self.lock();
        let is_idle = waits.as_ref().is_none_or(HashMap::is_empty);
        if is_idle {
            *waits = None;
        }
        is_idle
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<String, Vec<Wait>>>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResultWaiter {
    /// Returns the last step of the job; `None` if the subscription was lost before.
    ///
    /// # Cancel safety
    ///
    /// The step is either returned or kept for the next call. Each later call returns the same.
    pub(crate) async fn end(&mut self) -> Option<Transition> {
        if !self.has_ended {
            self.end = (&mut self.receiver).await.ok();
            self.has_ended = true;
        }
        self.end.clone()
    }
}

impl Drop for ResultWaiter {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waits = self.listener.lock();
        let Some(waits) = waits.as_mut() else { return };
        if let Some(of_id) = waits.get_mut(&self.id) {
            of_id.retain(|wait| !wait.end.is_closed());
            if of_id.is_empty() {
                waits.remove(&self.id);
            }
        }
    }
}

/// Ends a subscription when its task ends, also with its runtime. The waits that remain get no end.
struct EndGuard(Arc<Listener>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.opened.send_if_modified(|opened| {
            let unknown = opened.is_none();
            if unknown {
                *opened = Some(Err("the subscription ended before it was open".to_owned()));
            }
            unknown
        });
    }
}

/// Subscribes, and passes on status updates until the session ends or no caller waits.
async fn listen(transport: Transport, guard: EndGuard) {
    let listener = &guard.0;
    let opened = timeout(OPENED_WITHIN, transport.open_results()).await;
    // The subscription keeps no connection open that the broker handle has closed.
    drop(transport);
    let opened = opened.map_err(|_| format!("no connection within {OPENED_WITHIN:?}"));
    match opened.and_then(|opened| opened.map_err(|error| error.to_string())) {
        Ok(session) => {
            listener.opened.send_replace(Some(Ok(())));
            read(session, listener).await;
        }
        Err(reason) => drop(listener.opened.send_replace(Some(Err(reason)))),
    }
}

async fn read(mut session: Session, listener: &Listener) {
    let mut idle = interval(IDLE);
    idle.reset();
    loop {
        tokio::select! {
            delivered = session.next() => {
                let Ok(delivery) = delivered else { break };
                listener.see(&delivery.message);
                session.ack(delivery.tag, false);
                session.flush();
            }
            _ = idle.tick() => {
                if listener.end_if_idle() {
                    break;
                }
            }
        }
    }
    session.close().await;
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::topology::ENDS;

    #[test]
    fn the_subscription_is_for_the_steps_that_end_a_job() {
        let steps = [
            Transition::Queued { due: None, expires: None },
            Transition::Received,
            Transition::Started,
            Transition::Progress { fraction: 0.5, note: None },
            Transition::Retrying { kind: String::new(), error: String::new(), due: UNIX_EPOCH },
            Transition::Snoozed { due: UNIX_EPOCH },
            Transition::CancelRequested,
            Transition::Succeeded { result: None, too_large: None },
            Transition::Duplicate,
            Transition::Dead { kind: String::new(), error: String::new() },
            Transition::Cancelled,
        ];
        for step in steps {
            assert_eq!(ENDS.contains(&step.name()), step.is_terminal(), "{}", step.name());
        }
    }
}
