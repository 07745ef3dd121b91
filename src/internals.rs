//! Single operations of the framework on ready-made values, for its benchmarks (`benches/micro`) and its fuzz targets
//! (`fuzz/`). No part of the API: may change at any time.

use std::time::Duration;

use bytes::Bytes;
use lapin::{BasicProperties, types::ShortString};

use crate::{
    attempt::{admission, decide::Facts, disposition::Disposition, handler, retry::RetryPolicy, run::draws},
    error::{JobError, JobResult, PublishError},
    job::Job,
    message::{self, republish::Republish},
    outcome::{ErrorKind, Outcome},
    publish::builder::Publish,
    topology::{self, Target, Topology, delay::Wait, lane::Lane},
    transport::clock::Now,
};

/// A job on the wire.
#[derive(Clone, Debug)]
pub struct Message(message::Message);

impl Message {
    /// A message as lapin hands it over.
    #[must_use]
    pub fn delivered(properties: BasicProperties, body: Bytes) -> Self {
        Self(message::Message { properties, body })
    }

    /// The message that a publish sends.
    ///
    /// # Errors
    ///
    /// As awaiting the publish, for what can be told before it is sent.
    pub fn of(publish: Publish) -> Result<Self, PublishError> {
        publish.into_message().map(|(_, _, message)| Self(message))
    }

    /// Its properties as they are sent.
    #[must_use]
    pub fn properties(&self) -> &BasicProperties {
        &self.0.properties
    }

    /// Why it is a dead letter, if it says so.
    #[must_use]
    pub fn dead_kind(&self) -> Option<ErrorKind> {
        self.0.dead_kind()
    }
}

/// A delivery as a consumer has read it.
#[derive(Debug)]
pub struct Incoming(admission::Incoming);

impl Incoming {
    /// Reads the envelope.
    #[must_use]
    pub fn read(message: Message, now_ms: u64) -> Self {
        Self(admission::Incoming::read(message.0, false, Now::at(now_ms)))
    }

    /// The number of this attempt; none if the envelope makes no sense.
    #[must_use]
    pub fn attempt(&self) -> Option<u32> {
        self.0.malformed.is_none().then_some(self.0.envelope.attempt)
    }

    /// Whether it is to be run now, by the handler of `job`.
    #[must_use]
    pub fn is_run(&self, job: &str, now_ms: u64) -> bool {
        let route = |name: Option<&str>| if name == Some(job) { Ok(0) } else { Err(Disposition::Suspect) };
        admission::decide(&self.0, (Lane::Main, false), Now::at(now_ms), route).is_ok()
    }

    /// Reads the payload.
    ///
    /// # Errors
    ///
    /// If it is not a `J`.
    pub fn decode<J: Job>(&self) -> Result<J, JobError> {
        handler::decode(&self.0.message)
    }

    /// The copy for the next attempt.
    #[must_use]
    pub fn retry(&self, queue: &str, reason: &str, now_ms: u64) -> Message {
        let kind = Republish::Retry { kind: ErrorKind::Error, reason, at: now_ms };
        Message(self.0.message.copy(queue, self.0.envelope, &kind, now_ms))
    }
}

/// The verdict on an attempt.
pub fn verdict(result: JobResult, attempt: u32, policy: &RetryPolicy) -> Outcome {
    let (overdue, snooze_limit) = (None, Duration::MAX);
    let facts = Facts { attempt, overdue, snooze_limit, policy, draws: draws(&result) };
    crate::attempt::decide::decide(result, facts)
}

/// The ways into a namespace.
#[derive(Debug)]
pub struct Routes(topology::Routes);

impl Routes {
    /// Those of this topology.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        Self(topology::Routes::new(topology))
    }

    /// The exchange and routing key for a job of `queue` that waits for `delay`.
    #[must_use]
    pub fn to(&self, queue: &str, delay: Duration) -> (ShortString, ShortString) {
        self.0.to(&Target::after(queue, Wait::at_least(delay)))
    }
}

/// The delivery tags of one channel.
#[derive(Debug, Default)]
pub struct Acks(crate::transport::amqp::Acks);

impl Acks {
    /// Notes a delivery.
    pub fn delivered(&mut self, tag: u64) {
        self.0.delivered(tag);
    }

    /// Notes that a job is done with; returns how often that was since the last flush.
    pub fn finish(&mut self, tag: u64) -> usize {
        self.0.finish(tag)
    }

    /// Calls `send` for each ack frame, with its tag and whether it is for all up to that.
    pub fn flush(&mut self, mut send: impl FnMut(u64, bool)) {
        self.0.flush(true, |ack| send(ack.tag, ack.multiple));
    }
}
