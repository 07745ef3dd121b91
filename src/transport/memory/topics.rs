//! Events in memory: the bindings of subscriptions to topics, and the queues that belong to one process.

use std::{collections::BTreeSet, time::SystemTime};

use crate::topology::{EACH_PROCESS_MOST, topic::Pattern};
use crate::{
    message::Message,
    time::unix_ms,
    topology::{QueueDeclaration, Start, Stream},
    transport::{
        SendError,
        memory::{Memory, MemorySession, State},
    },
};

/// The bindings of queues to topics.
#[derive(Default)]
pub(super) struct Bindings(Vec<(String, Pattern, String)>);

impl Bindings {
    fn add(&mut self, topic: &str, queue: &str) {
        if !self.0.iter().any(|(known, _, bound)| known == topic && bound == queue) {
            self.0.push((topic.to_owned(), Pattern::new(topic), queue.to_owned()));
        }
    }

    fn remove(&mut self, queue: &str) {
        self.0.retain(|(_, _, bound)| bound != queue);
    }

    /// Returns each queue that is bound to a topic, once.
    fn queues(&self, topic: &str) -> BTreeSet<String> {
        let bound = self.0.iter().filter(|(_, pattern, _)| pattern.matches(topic));
        bound.map(|(_, _, queue)| queue.clone()).collect()
    }
}

impl State {
    /// Binds the queue of a subscription.
    pub(super) fn subscribe(&mut self, queue: &QueueDeclaration, name: &str) {
        for topic in queue.topics() {
            self.bindings.add(topic, name);
        }
        let most = queue.kept_events().map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        self.queues.entry(name.to_owned()).or_default().most = most;
    }

    /// Deletes the queue of one process.
    pub(super) fn unsubscribe(&mut self, name: &str) {
        self.bindings.remove(name);
        self.queues.remove(name);
    }

    /// Gives each subscription its copy of an event.
    pub(super) fn emit(&mut self, topic: &str, message: &Message) -> Result<(), SendError> {
        let queues = self.bindings.queues(topic);
        if self.is_logging {
            self.append(Stream::EventLog, message.clone());
        }
        for queue in &queues {
            self.push(queue, message.clone());
        }
        if queues.is_empty() && !self.is_logging { Err(SendError::Returned) } else { Ok(()) }
    }
}

impl Memory {
    /// Reads the log of events.
    pub(crate) fn open_event_log(&self, start: Start) -> MemorySession {
        let mut state = self.lock();
        let messages = &state.log(Stream::EventLog).messages;
        let end = messages.len();
        let since = |at: SystemTime| {
            let ms = unix_ms(at);
            messages.iter().position(|message| message.enqueued_at().is_some_and(|own| own >= ms)).unwrap_or(end)
        };
        let from = match start {
            Start::First => 0,
            Start::Last => end.saturating_sub(1),
            Start::Next => end,
            Start::Time(at) => since(at),
            Start::Offset(offset) => usize::try_from(offset).unwrap_or(usize::MAX),
        };
        drop(state);
        self.open_stream(Stream::EventLog, from as u64)
    }

    /// Opens a queue that is deleted with its session.
    pub(crate) fn open_each_process(&self, queue: &QueueDeclaration, prefetch: u16) -> MemorySession {
        let (name, _) = self.topology.of_each_process(queue);
        let mut state = self.lock();
        state.subscribe(queue, &name);
        state.queues.entry(name.clone()).or_default().most.get_or_insert(EACH_PROCESS_MOST);
        drop(state);
        let mut session = self.open(&name, prefetch);
        session.is_temporary = true;
        session
    }
}
