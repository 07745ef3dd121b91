//! A consumer on a queue in memory.

use std::{collections::BTreeMap, sync::Arc};

use lapin::types::{AMQPValue, FieldArray, FieldTable};
use uuid::Uuid;

use crate::{
    message::{header, integer, text},
    topology::{DEAD, Stream},
    transport::{
        memory::{Memory, ready::Waiting},
        session::Delivery,
    },
};

/// One consumer on one queue.
pub(crate) struct MemorySession {
    pub(super) memory: Memory,
    pub(super) id: Uuid,
    pub(super) queue: String,
    pub(super) prefetch: usize,
    pub(super) next_tag: u64,
    pub(super) unacked: BTreeMap<u64, Waiting>,
    pub(super) stopped: bool,
    /// The source that its queue reads; the queue is deleted with the session.
    pub(super) reads: Option<Source>,
    /// True if its queue is deleted with the session.
    pub(super) is_temporary: bool,
}

/// A source of messages that each session reads through a queue of its own.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Stream(Stream),
    Results,
}

impl MemorySession {
    pub(crate) async fn next(&mut self) -> Delivery {
        loop {
            let arrived = Arc::clone(&self.memory.lock().queues.entry(self.queue.clone()).or_default().arrived);
            let notified = arrived.notified();
            if let Some(delivery) = self.take() {
                return delivery;
            }
            notified.await;
        }
    }

    fn take(&mut self) -> Option<Delivery> {
        if self.stopped || self.unacked.len() >= self.prefetch {
            return None;
        }
        let mut state = self.memory.lock();
        let stored = state.queues.get_mut(&self.queue)?;
        if stored.consumers.as_ref().is_some_and(|consumers| consumers.front() != Some(&self.id)) {
            return None;
        }
        let waiting = stored.ready.pop()?;
        stored.unacked += 1;
        if !stored.ready.is_empty() {
            stored.wake();
        }
        drop(state);
        let tag = self.next_tag;
        self.next_tag += 1;
        let mut message = waiting.message.clone();
        if waiting.delivery_count > 0 {
            message.set_header(header::DELIVERY_COUNT, integer(waiting.delivery_count));
        }
        let redelivered = waiting.redelivered;
        self.unacked.insert(tag, waiting);
        Some(Delivery { tag, redelivered, message })
    }

    pub(crate) fn ack(&mut self, tag: u64) -> u64 {
        let known = self.settle(tag).is_some();
        u64::from(!known)
    }

    pub(crate) fn reject(&mut self, tag: u64) {
        let Some(mut waiting) = self.settle(tag) else { return };
        waiting.message.set_header("x-death", rejected_from(&self.queue));
        let mut state = self.memory.lock();
        let dead_to = state.queues.get(&self.queue).map(|stored| format!("{}{DEAD}", stored.dead_to));
        if dead_to.as_deref() != Some(DEAD) {
            state.push_or_unrouted(&dead_to.unwrap_or_default(), waiting.message);
        }
    }

    pub(crate) fn requeue(&mut self, tag: u64) {
        let Some(waiting) = self.settle(tag) else { return };
        self.requeue_all([waiting]);
    }

    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        if let Some(stored) = self.memory.lock().queues.get_mut(&self.queue) {
            stored.leave(self.id);
        }
    }

    pub(crate) fn resume(&mut self, prefetch: u16) {
        (self.stopped, self.prefetch) = (false, prefetch.into());
    }

    fn settle(&mut self, tag: u64) -> Option<Waiting> {
        let waiting = self.unacked.remove(&tag)?;
        let mut state = self.memory.lock();
        if let Some(stored) = state.queues.get_mut(&self.queue) {
            stored.unacked -= 1;
            stored.wake();
        }
        Some(waiting)
    }

    /// Requeues messages at the head of the queue, in their order.
    fn requeue_all(&self, messages: impl IntoIterator<Item = Waiting, IntoIter: DoubleEndedIterator>) {
        let mut state = self.memory.lock();
        let stored = state.queues.entry(self.queue.clone()).or_default();
        for waiting in messages.into_iter().rev() {
            let delivery_count = waiting.delivery_count + 1;
            stored.ready.push_front(Waiting { delivery_count, redelivered: true, ..waiting });
        }
        stored.wake();
    }
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        if let Some(source) = self.reads {
            let mut state = self.memory.lock();
            let readers = match source {
                Source::Stream(stream) => &mut state.log(stream).readers,
                Source::Results => &mut state.results,
            };
            readers.retain(|reader| *reader != self.queue);
            state.queues.remove(&self.queue);
            return;
        }
        if self.is_temporary {
            return self.memory.lock().unsubscribe(&self.queue);
        }
        let unacked = std::mem::take(&mut self.unacked);
        let count = unacked.len();
        self.requeue_all(unacked.into_values().collect::<Vec<_>>());
        // The next single active consumer may start only after the requeue.
        if let Some(stored) = self.memory.lock().queues.get_mut(&self.queue) {
            stored.unacked -= count;
            stored.leave(self.id);
        }
    }
}

/// Returns the headers of a dead-lettered message as RabbitMQ writes them, as far as Leveret reads them.
fn rejected_from(queue: &str) -> AMQPValue {
    let mut death = FieldTable::default();
    death.insert("reason".into(), text("rejected"));
    death.insert("queue".into(), text(queue));
    let mut deaths = FieldArray::default();
    deaths.push(AMQPValue::FieldTable(death));
    AMQPValue::FieldArray(deaths)
}
