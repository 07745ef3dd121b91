//! A broker in this process's memory: the same queues, delays and dead letters, on tokio's clock.
//!
//! It keeps the transport's contract as RabbitMQ does. A session that ends requeues its unacknowledged messages, in
//! order and marked as redelivered. A delayed job whose queue was deleted ends in `unrouted`.

mod ready;
mod session;
mod topics;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

pub(crate) use self::session::MemorySession;
use self::{
    ready::{Ready, Waiting},
    session::Source,
    topics::Bindings,
};
use crate::transport::SendError;
use crate::{
    message::{Message, header, integer},
    time::unix_ms,
    topology::{Argument, DEAD, ENDS, Plan, Stream, Target, Topology, queue::QueueDeclaration},
};

#[derive(Clone)]
pub(crate) struct Memory {
    state: Arc<Mutex<State>>,
    /// The wall clock and tokio's clock at the same moment. Later times follow tokio's clock, which tests may pause.
    started: (SystemTime, Instant),
    topology: Topology,
}

#[derive(Default)]
struct State {
    /// The names of three queues in the broker's namespace.
    unrouted: String,
    status: String,
    workflows: String,
    queues: HashMap<String, Stored>,
    /// Number of delayed jobs.
    delayed: usize,
    catalogue: Log,
    cancelled: Log,
    schedules: Log,
    /// The queues that receive the last status updates of tracked jobs.
    results: Vec<String>,
    event_log: Log,
    /// Set once the log of events is declared.
    is_logging: bool,
    bindings: Bindings,
}

/// A stream, and the queue of each of its readers.
#[derive(Default)]
struct Log {
    messages: Vec<Message>,
    readers: Vec<String>,
}

#[derive(Default)]
struct Stored {
    ready: Ready,
    unacked: usize,
    arrived: Arc<Notify>,
    /// The job queue whose dead-letter queue receives rejected messages.
    dead_to: String,
    /// The number of waiting messages above which the oldest is dropped, if there is one.
    most: Option<usize>,
    /// With a single active consumer, the sessions of the queue, the active one first.
    consumers: Option<VecDeque<Uuid>>,
}

impl Stored {
    fn push(&mut self, message: Message) {
        self.ready.push_back(Waiting { message, delivery_count: 0, redelivered: false });
        while self.most.is_some_and(|most| self.ready.len() > most) {
            self.ready.pop();
        }
        self.wake();
    }

    fn wake(&self) {
        // A waiting session would consume the only notification without effect.
        if self.consumers.is_some() { self.arrived.notify_waiters() } else { self.arrived.notify_one() }
    }

    fn leave(&mut self, session: Uuid) {
        if let Some(consumers) = &mut self.consumers {
            consumers.retain(|waiting| *waiting != session);
            self.arrived.notify_waiters();
        }
    }
}

impl Memory {
    pub(crate) fn new(topology: Topology) -> Self {
        let (unrouted, status, workflows) = (topology.unrouted(), topology.status(), topology.workflows());
        let mut state = State { unrouted, status, workflows, ..State::default() };
        state.queues.entry(topology.workflows()).or_default();
        let state = Arc::new(Mutex::new(state));
        Self { state, started: (SystemTime::now(), Instant::now()), topology }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let (wall, clock) = self.started;
        unix_ms(wall + clock.elapsed())
    }

    pub(crate) fn declare(&self, queue: &QueueDeclaration) {
        let mut state = self.lock();
        for planned in self.topology.of_queue(queue).queues {
            let dead_to = match planned.argument("x-dead-letter-routing-key") {
                Some(Argument::Text(key)) => key.clone(),
                // Such a queue has no dead-letter exchange.
                _ if planned.argument("x-max-length").is_some() => String::new(),
                _ => planned.name.clone(),
            };
            state.queues.entry(planned.name).or_default().dead_to = dead_to;
        }
        if !queue.is_each_process() {
            state.subscribe(queue, queue.name());
        }
        if queue.is_single_active() {
            state.queues.entry(queue.name().to_owned()).or_default().consumers.get_or_insert_default();
        }
    }

    pub(crate) fn open(&self, queue: &str, prefetch: u16) -> MemorySession {
        let id = Uuid::now_v7();
        if let Some(consumers) = &mut self.lock().queues.entry(queue.to_owned()).or_default().consumers {
            consumers.push_back(id);
        }
        MemorySession {
            memory: self.clone(),
            id,
            queue: queue.to_owned(),
            prefetch: usize::from(prefetch),
            next_tag: 1,
            unacked: BTreeMap::new(),
            stopped: false,
            reads: None,
            is_temporary: false,
        }
    }

    /// Opens a session on a queue that is deleted with it.
    pub(crate) fn open_temporary(&self, queue: &str, prefetch: u16) -> MemorySession {
        let mut session = self.open(queue, prefetch);
        session.is_temporary = true;
        session
    }

    pub(crate) fn declare_all(&self, plan: &Plan) {
        let mut state = self.lock();
        for queue in &plan.queues {
            state.is_logging |= queue.name == self.topology.event_log();
            let stored = state.queues.entry(queue.name.clone()).or_default();
            if queue.argument("x-single-active-consumer") == Some(&Argument::Flag(true)) {
                stored.consumers.get_or_insert_default();
            }
        }
    }

    /// Reads a stream from message `from` on, through a queue that is filled from it and bound to it.
    pub(crate) fn open_stream(&self, stream: Stream, from: u64) -> MemorySession {
        let name = format!("{} of {}", stream.name(), Uuid::now_v7());
        let mut state = self.lock();
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let messages: Vec<_> = state.log(stream).messages.iter().skip(from).cloned().collect();
        state.log(stream).readers.push(name.clone());
        for message in messages {
            state.push(&name, message);
        }
        drop(state);
        let mut session = self.open(&name, u16::MAX);
        session.reads = Some(Source::Stream(stream));
        session
    }

    /// Reads the last status updates of tracked jobs from now on.
    pub(crate) fn open_results(&self, prefetch: u16) -> MemorySession {
        let name = self.topology.results(Uuid::now_v7());
        self.lock().results.push(name.clone());
        let mut session = self.open(&name, prefetch);
        session.reads = Some(Source::Results);
        session
    }

    pub(crate) fn send(&self, target: &Target, message: Message) -> Result<(), SendError> {
        let mut state = self.lock();
        match target {
            Target::Queue(queue) | Target::Reply(queue) if !state.queues.contains_key(queue) => {
                return Err(SendError::Returned);
            }
            // Direct reply-to belongs to a channel, which no client of this broker has.
            Target::DirectReply(_) => {}
            Target::Queue(queue) | Target::Reply(queue) => state.push(queue, message),
            Target::Workflows => {
                let queue = state.workflows.clone();
                state.push(&queue, message);
            }
            Target::Dead(queue) => state.push_or_unrouted(&format!("{queue}{DEAD}"), message),
            Target::StatusUpdate(step, _) => state.push_update(step, message),
            Target::Stream(stream) => state.append(*stream, message),
            Target::Topic(topic) => return state.emit(topic, &message),
            Target::Schedule(kind, schedule) => {
                let queue = self.topology.schedule(schedule);
                if !state.queues.contains_key(&queue) {
                    return Err(SendError::Returned);
                }
                state.push(&queue, message.clone());
                if *kind == "token" {
                    state.append(Stream::Schedules, message);
                }
            }
            Target::Delayed(queue, wait) => {
                state.delayed += 1;
                tokio::spawn(self.clone().deliver_after(wait.duration(), queue.clone(), message));
            }
        }
        Ok(())
    }

    async fn deliver_after(self, delay: Duration, queue: String, message: Message) {
        tokio::time::sleep(delay).await;
        let mut state = self.lock();
        state.delayed -= 1;
        state.push_or_unrouted(&queue, message);
    }

    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        let schedules = self.topology.schedule("");
        let system = [&state.unrouted, &state.status, &state.workflows];
        let kept = |name: &String| name.ends_with(DEAD) || system.contains(&name) || name.starts_with(&schedules);
        let idle = |stored: &Stored| stored.ready.is_empty() && stored.unacked == 0;
        state.delayed == 0 && state.queues.iter().all(|(name, stored)| kept(name) || idle(stored))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, queue: &str, message: Message) {
        self.queues.entry(queue.to_owned()).or_default().push(message);
    }

    fn log(&mut self, stream: Stream) -> &mut Log {
        match stream {
            Stream::Catalogue => &mut self.catalogue,
            Stream::Cancelled => &mut self.cancelled,
            Stream::Schedules => &mut self.schedules,
            Stream::EventLog => &mut self.event_log,
        }
    }

    fn append(&mut self, stream: Stream, mut message: Message) {
        let log = self.log(stream);
        message.set_header(header::STREAM_OFFSET, integer(log.messages.len() as u64));
        log.messages.push(message.clone());
        for reader in log.readers.clone() {
            self.push(&reader, message.clone());
        }
    }

    fn push_or_unrouted(&mut self, queue: &str, message: Message) {
        let target = if self.queues.contains_key(queue) { queue.to_owned() } else { self.unrouted.clone() };
        self.push(&target, message);
    }

    /// Keeps a status update if the status queue is declared, and the last one of a job for those who wait for it.
    fn push_update(&mut self, step: &str, message: Message) {
        if ENDS.contains(&step) {
            for queue in self.results.clone() {
                self.push(&queue, message.clone());
            }
        }
        if let Some(status) = self.queues.get_mut(&self.status) {
            status.push(message);
        }
    }
}
