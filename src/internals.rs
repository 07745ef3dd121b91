//! Single operations of the framework on ready-made values, for its benchmarks (`benches/micro`) and its fuzz targets
//! (`fuzz/`). Not part of the API: may change at any time.

use std::time::Duration;

use bytes::Bytes;
use lapin::{BasicProperties, types::ShortString};

use crate::{
    attempt::{admission, disposition::Disposition, handler, retry_policy::RetryPolicy, run::draws, verdict::Facts},
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
    /// Creates a message as lapin delivers it.
    #[must_use]
    pub fn delivered(properties: BasicProperties, body: Bytes) -> Self {
        Self(message::Message { properties, body })
    }

    /// Returns the message that a publish sends.
    ///
    /// # Errors
    ///
    /// The errors of the publish that are known before it is sent.
    pub fn of(publish: Publish) -> Result<Self, PublishError> {
        publish.into_message().map(|(_, _, message)| Self(message))
    }

    /// Returns the properties as they are sent.
    #[must_use]
    pub fn properties(&self) -> &BasicProperties {
        &self.0.properties
    }

    /// Returns why it is a dead letter, if it states a reason.
    #[must_use]
    pub fn dead_kind(&self) -> Option<ErrorKind> {
        self.0.dead_kind()
    }
}

/// A delivery after the consumer has read it.
#[derive(Debug)]
pub struct Incoming(admission::Incoming);

impl Incoming {
    /// Reads the envelope.
    #[must_use]
    pub fn read(message: Message, now_ms: u64) -> Self {
        Self(admission::Incoming::read(message.0, false, Now::at(now_ms)))
    }

    /// Returns the number of this attempt; `None` if the envelope is malformed.
    #[must_use]
    pub fn attempt(&self) -> Option<u32> {
        self.0.malformed.is_none().then_some(self.0.envelope.attempt)
    }

    /// Returns whether it is to run now, by the handler of `job`.
    #[must_use]
    pub fn is_run(&self, job: &str, now_ms: u64) -> bool {
        let is_own = self.0.message.job_name() == Some(job);
        let route = || if is_own { Ok(0) } else { Err(Disposition::Suspect) };
        admission::decide(&self.0, (Lane::Main, false), Now::at(now_ms), route).is_ok()
    }

    /// Decodes the payload.
    ///
    /// # Errors
    ///
    /// If the payload is not a `J`.
    pub fn decode<J: Job>(&self) -> Result<J, JobError> {
        handler::decode(&self.0.message)
    }

    /// Returns the copy for the next attempt.
    #[must_use]
    pub fn retry(&self, queue: &str, reason: &str, now_ms: u64) -> Message {
        let kind = Republish::Retry { kind: ErrorKind::Error, reason, at: now_ms };
        Message(self.0.message.copy(queue, self.0.envelope, &kind, now_ms))
    }
}

/// Returns the verdict on an attempt.
pub fn verdict(result: JobResult, attempt: u32, policy: &RetryPolicy) -> Outcome {
    let (overdue, snooze_limit) = (None, Duration::MAX);
    let facts = Facts { attempt, overdue, snooze_limit, policy, draws: draws(&result) };
    crate::attempt::verdict::decide(result, facts)
}

/// The exchanges and routing keys of a namespace.
#[derive(Debug)]
pub struct Routes(topology::Routes);

impl Routes {
    /// Creates the routes of this topology.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        Self(topology::Routes::new(topology))
    }

    /// Returns the exchange and routing key for a job of `queue` that waits for `delay`.
    #[must_use]
    pub fn to(&self, queue: &str, delay: Duration) -> (ShortString, ShortString) {
        self.0.to(&Target::after(queue, Wait::at_least(delay)))
    }
}

/// The delivery tags of one channel.
#[derive(Debug, Default)]
pub struct Acks(crate::transport::amqp::Acks);

impl Acks {
    /// Records a delivery.
    pub fn delivered(&mut self, tag: u64) {
        self.0.delivered(tag);
    }

    /// Records a finished job; returns the number since the last flush.
    pub fn finish(&mut self, tag: u64) -> usize {
        self.0.finish(tag)
    }

    /// Calls `send` for each ack frame, with its tag and whether it acks all tags up to it.
    pub fn flush(&mut self, mut send: impl FnMut(u64, bool)) {
        self.0.flush(true, |ack| send(ack.tag, ack.multiple));
    }
}
