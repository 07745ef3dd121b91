//! The replies to the requests of this process.
//!
//! All requests of a broker handle share one reply queue. It is exclusive to its connection, and has a new name on each
//! connection: a reply to a request of a lost connection finds no queue, and reaches no other caller. Each request has a
//! random correlation id, and its entry here is removed with its first reply. Later replies are dropped and counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    backoff::Backoff,
    message::Message,
    observe::metrics::Metrics,
    topology::Topology,
    transport::{
        Transport,
        session::{Delivery, Ended, Session},
    },
};

/// Most requests of a broker handle that wait for their replies.
pub(crate) const MOST_WAITING: usize = 100_000;
/// Replies that the broker sends ahead of their acks.
const PREFETCH: u16 = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The requests of a broker handle that wait for their replies.
#[derive(Default)]
pub(crate) struct Replies {
    shared: Arc<Shared>,
    /// Reads the reply queue from the first request on.
    reader: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Message>>>,
    /// The name of the reply queue, while there is one. It is lost only under the lock of `waiting`.
    queue: watch::Sender<ReplyQueue>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum ReplyQueue {
    #[default]
    NotYet,
    Open(Arc<str>),
    Closed,
}

/// The reason why a request cannot wait for a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoReplyQueue {
    /// [`MOST_WAITING`] requests wait already.
    Full,
    /// The broker handle is closed.
    Closed,
}

/// A wait for the reply to one request; dropping it ends the wait.
pub(crate) struct ReplyWaiter {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    id: Uuid,
    queue: Arc<str>,
    reply: oneshot::Receiver<Message>,
}

impl Replies {
    /// Waits for the reply queue, and registers a request under a new correlation id.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves no request behind.
    pub(crate) async fn register(&self, transport: &Transport) -> Result<ReplyWaiter, NoReplyQueue> {
        let mut queue = self.watch(transport);
        loop {
            // The sender lives as long as `self`.
            drop(queue.wait_for(|queue| *queue != ReplyQueue::NotYet).await);
            if let Some(waiter) = Shared::add(&self.shared, transport.metrics())? {
                return Ok(waiter);
            }
        }
    }

    fn watch(&self, transport: &Transport) -> watch::Receiver<ReplyQueue> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        // The reader is finished when the runtime that it ran on has ended.
        if reader.as_ref().is_none_or(|reader| reader.is_finished()) {
            self.shared.lose(ReplyQueue::NotYet);
            let reading = read(transport.clone(), Arc::clone(&self.shared));
            *reader = Some(AbortOnDropHandle::new(tokio::spawn(reading)));
        }
        self.shared.queue.subscribe()
    }
}

impl Shared {
    /// Adds a request. Returns `None` while there is no reply queue.
    fn add(shared: &Arc<Self>, metrics: &Arc<Metrics>) -> Result<Option<ReplyWaiter>, NoReplyQueue> {
        let mut waiting = shared.lock();
        let queue = match &*shared.queue.borrow() {
            ReplyQueue::NotYet => return Ok(None),
            ReplyQueue::Closed => return Err(NoReplyQueue::Closed),
            ReplyQueue::Open(queue) => Arc::clone(queue),
        };
        if waiting.len() >= MOST_WAITING {
            return Err(NoReplyQueue::Full);
        }
        // Random, so that no other caller can have or guess it.
        let id = Uuid::new_v4();
        let (sender, reply) = oneshot::channel();
        waiting.insert(id, sender);
        metrics.requests.waiting.set(waiting.len() as i64);
        drop(waiting);
        Ok(Some(ReplyWaiter { shared: Arc::clone(shared), metrics: Arc::clone(metrics), id, queue, reply }))
    }

    /// Passes a reply to its caller. Returns whether a caller waits for it.
    fn answer(&self, reply: Message) -> bool {
        let id = reply.correlation_id().and_then(|id| Uuid::try_parse(id).ok());
        let waiting = id.and_then(|id| self.lock().remove(&id));
        waiting.is_some_and(|waiting| waiting.send(reply).is_ok())
    }

    /// Ends the waits of all requests, because replies to a lost queue cannot arrive.
    fn lose(&self, now: ReplyQueue) {
        let mut waiting = self.lock();
        self.queue.send_replace(now);
        waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, oneshot::Sender<Message>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplyWaiter {
    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    pub(crate) fn correlation_id(&self) -> String {
        self.id.to_string()
    }

    /// Waits for the reply; `None` if the reply queue is lost.
    pub(crate) async fn reply(&mut self) -> Option<Message> {
        (&mut self.reply).await.ok()
    }
}

impl Drop for ReplyWaiter {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.remove(&self.id);
        self.metrics.requests.waiting.set(waiting.len() as i64);
    }
}

/// Reads reply queues, one after the other, until the broker handle is closed.
async fn read(transport: Transport, shared: Arc<Shared>) {
    let topology = Topology::new(transport.namespace());
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    while !transport.is_closed() {
        let queue: Arc<str> = format!("{}{}", topology.reply_prefix(), Uuid::new_v4()).into();
        let opened = Instant::now();
        let reason = match transport.open_replies(&queue, PREFETCH).await {
            Ok(mut session) => {
                drop(shared.queue.send_replace(ReplyQueue::Open(queue)));
                let ended = read_on(&transport, &mut session, &shared).await;
                shared.lose(ReplyQueue::NotYet);
                match ended {
                    // The connection logs its loss once, for all sessions on it.
                    Ended::Connection => None,
                    Ended::Channel(reason) => Some(reason),
                }
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = reason
            && !transport.is_closed()
        {
            transport.log_throttle().log("replies", || {
                tracing::warn!(error = reason, "cannot receive replies, retrying");
            });
        }
        if opened.elapsed() > LONGEST_PAUSE {
            backoff.reset();
        }
        backoff.sleep().await;
    }
    shared.lose(ReplyQueue::Closed);
}

async fn read_on(transport: &Transport, session: &mut Session, shared: &Shared) -> Ended {
    let take = |session: &mut Session, Delivery { tag, message, .. }: Delivery| {
        if !shared.answer(message) {
            transport.metrics().requests.dropped_replies.inc();
        }
        session.ack(tag, false);
    };
    loop {
        match session.next().await {
            Ok(delivery) => take(session, delivery),
            Err(ended) => return ended,
        }
        while let Some(delivered) = session.try_next() {
            match delivered {
                Ok(delivery) => take(session, delivery),
                Err(ended) => return ended,
            }
        }
        session.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn reply(id: &str) -> Message {
        let mut request = Message::new("j", &"job".into(), Vec::new(), 0);
        request.properties = std::mem::take(&mut request.properties).with_correlation_id(id.into());
        *Message::reply(&request, Ok(b"1".to_vec()))
    }

    #[tokio::test]
    async fn a_reply_reaches_its_own_caller_once_and_no_other() {
        let (replies, transport) = (Replies::default(), Transport::memory(&Config::default()).unwrap());
        let (mut first, second) =
            (replies.register(&transport).await.unwrap(), replies.register(&transport).await.unwrap());
        assert_ne!(first.correlation_id(), second.correlation_id());
        for unknown in ["", "job", "00000000-0000-0000-0000-000000000000"] {
            assert!(!replies.shared.answer(reply(unknown)), "{unknown}");
        }
        assert!(replies.shared.answer(reply(&first.correlation_id())));
        assert!(!replies.shared.answer(reply(&first.correlation_id())), "a second reply is dropped");
        assert!(first.reply().await.is_some());
        let late = second.correlation_id();
        drop(second);
        assert!(!replies.shared.answer(reply(&late)), "no caller waits");
        assert_eq!(transport.metrics().requests.waiting.get(), 0);
    }

    #[tokio::test]
    async fn requests_end_with_their_reply_queue_and_a_later_one_has_another() {
        let (replies, transport) = (Replies::default(), Transport::memory(&Config::default()).unwrap());
        let mut lost = replies.register(&transport).await.unwrap();
        *replies.reader.lock().unwrap() = None;
        let next = replies.register(&transport).await.unwrap();
        assert!(lost.reply().await.is_none());
        assert_ne!(lost.queue(), next.queue());
        replies.shared.lose(ReplyQueue::Closed);
        assert_eq!(replies.register(&transport).await.err(), Some(NoReplyQueue::Closed));
    }

    #[tokio::test]
    async fn so_many_requests_wait_and_no_more() {
        let (replies, transport) = (Replies::default(), Transport::memory(&Config::default()).unwrap());
        let mut waiting = Vec::new();
        for _ in 0..MOST_WAITING {
            waiting.push(replies.register(&transport).await.unwrap());
        }
        assert_eq!(replies.register(&transport).await.err(), Some(NoReplyQueue::Full));
        waiting.pop();
        replies.register(&transport).await.unwrap();
    }
}
