//! The jobs, and every connection with its channels.

use std::{collections::BTreeMap, fmt, sync::Arc};

use amq_protocol::{
    protocol::{AMQPClass, channel},
    types::ShortString,
};

use super::{
    delivery::Template,
    jobs::{Jobs, Unacked},
    wire::{Wire, lock, push_method},
};

/// The bytes after which deliveries are written in one piece.
const CHUNK: usize = 256 * 1024;
const PRECONDITION_FAILED: u16 = 406;

/// The traffic between the stub and its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries, including redeliveries.
    pub delivered: u64,
    /// Redeliveries.
    pub redelivered: u64,
    /// Acked jobs.
    pub acked: u64,
    /// Ack frames.
    pub ack_frames: u64,
    /// Published messages, without the announcements of starting workers to the catalogue.
    pub published: u64,
    /// Socket reads, each of any number of frames.
    pub reads: u64,
}

pub(super) struct StubState {
    pub(super) jobs: Jobs,
    pub(super) counts: Counts,
    pub(super) on_ack: Box<dyn FnMut(u64) + Send>,
    pub(super) connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// The stub is ending and accepts no more clients.
    stopping: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) wire: Arc<Wire>,
    pub(super) channels: BTreeMap<u16, Channel>,
}

#[derive(Debug, Default)]
pub(super) struct Channel {
    /// The prefetch of the next consumer, 0 for no limit.
    pub(super) prefetch: u16,
    pub(super) consumer: Option<Consumer>,
    pub(super) unacked: Unacked,
    /// The number of confirmed publishes, `None` without confirms.
    pub(super) confirmed: Option<u64>,
    /// True if the message that is being published announces a job to the catalogue.
    pub(super) announcing: bool,
    /// Missing bytes of a message body.
    pub(super) missing: u64,
    /// The stub closed the channel, and the client has not confirmed it yet.
    pub(super) closing: bool,
}

/// The consumer of the queue that has jobs.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) tag: ShortString,
    pub(super) prefetch: usize,
    pub(super) template: Template,
}

impl StubState {
    pub(super) fn new(jobs: u64, on_ack: Box<dyn FnMut(u64) + Send>) -> Self {
        let (counts, connections) = (Counts::default(), BTreeMap::new());
        Self { jobs: Jobs::new(jobs), counts, on_ack, connections, next_connection: 0, stopping: false }
    }

    /// The number of a new connection, `None` if the stub ends.
    pub(super) fn connected(&mut self, wire: Arc<Wire>) -> Option<u64> {
        if self.stopping {
            return None;
        }
        self.next_connection += 1;
        self.connections.insert(self.next_connection, Connection { wire, channels: BTreeMap::new() });
        Some(self.next_connection)
    }

    pub(super) fn disconnected(&mut self, number: u64) {
        let Some(mut connection) = self.connections.remove(&number) else { return };
        for channel in connection.channels.values_mut() {
            self.jobs.requeue(channel.unacked.take_all());
        }
    }

    /// Adds deliveries for every consumer with free prefetch. Returns the connections with bytes to write.
    pub(super) fn fill(&mut self) -> Vec<Arc<Wire>> {
        let Self { jobs, counts, connections, .. } = self;
        let mut wires = Vec::new();
        for connection in connections.values_mut() {
            let mut pending = lock(&connection.wire.pending);
            for channel in connection.channels.values_mut() {
                channel.fill(jobs, counts, &mut pending);
            }
            if !pending.is_empty() {
                wires.push(Arc::clone(&connection.wire));
            }
        }
        wires
    }

    /// Closes the channels, and returns their number.
    pub(super) fn close_consuming_channels(&mut self) -> usize {
        let Self { jobs, connections, .. } = self;
        let mut closed = 0;
        for connection in connections.values_mut() {
            let mut pending = lock(&connection.wire.pending);
            for (number, channel) in &mut connection.channels {
                if channel.consumer.take().is_some() {
                    jobs.requeue(channel.unacked.take_all());
                    channel.closing = true;
                    push_method(&mut pending, *number, close());
                    closed += 1;
                }
            }
        }
        closed
    }

    /// Cuts the connections, and returns their number. Their threads then requeue unacknowledged jobs.
    pub(super) fn cut_consuming_connections(&self) -> usize {
        let consuming = |up: &&Connection| up.channels.values().any(|channel| channel.consumer.is_some());
        self.connections.values().filter(consuming).map(|connection| connection.wire.cut()).count()
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.connections.values().for_each(|connection| connection.wire.cut());
    }
}

impl Channel {
    fn fill(&mut self, jobs: &mut Jobs, counts: &mut Counts, pending: &mut Vec<u8>) {
        let Some(consumer) = &self.consumer else { return };
        while self.unacked.open() < consumer.prefetch
            && pending.len() < CHUNK
            && let Some((job, redelivered)) = jobs.take()
        {
            let tag = self.unacked.deliver(job);
            consumer.template.push(pending, tag, redelivered, job);
            counts.delivered += 1;
            counts.redelivered += u64::from(redelivered);
        }
    }
}

fn close() -> AMQPClass {
    let close = channel::Close {
        reply_code: PRECONDITION_FAILED,
        reply_text: "PRECONDITION_FAILED - closed by the stub".into(),
        class_id: 0,
        method_id: 0,
    };
    AMQPClass::Channel(channel::AMQPMethod::Close(close))
}

impl fmt::Debug for StubState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs, counts, connections, .. } = self;
        f.debug_struct("State").field("jobs", jobs).field("counts", counts).field("connections", connections).finish()
    }
}
