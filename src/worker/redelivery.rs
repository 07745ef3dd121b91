//! Recognises redeliveries of jobs whose channel was lost before their ack arrived.
//!
//! After a reconnect the broker redelivers the unacknowledged jobs. If such a job still runs here, the running attempt
//! gets the new delivery. If its outcome is already safe, the delivery is settled without running the job. Redeliveries
//! that hint at a job which crashes its worker are counted in `attempt/admission.rs`.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
    time::Duration,
};

use foldhash::fast::RandomState;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;

use crate::{
    attempt::{admission::Incoming, disposition::Settlement},
    message::header,
};

/// Most settlements remembered for a redelivery; the oldest are dropped first. More would require a larger prefetch
/// than RabbitMQ allows.
const REMEMBERED: usize = 10_000;
/// Time after the broker must have noticed the lost connection (three heartbeats) for which redeliveries are expected
/// while there is a channel. Later ones have gone to another worker, and a delivery with the same id is another job of
/// a publisher that reuses its ids.
const AWAITED: Duration = Duration::from_secs(30);

/// The largest payload, in bytes, of an acked job that is kept whole.
const SMALL: usize = 1_024;

static CONTENTS: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The identity of a delivery. A publisher that gives one id to different jobs must lose none of them, so everything
/// that it wrote counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JobKey {
    id: Box<str>,
    attempt: u32,
    hop: u32,
    content: u64,
}

impl JobKey {
    /// Returns `None` for a message without an id of its own, whose redelivery is indistinguishable from another
    /// message.
    pub(crate) fn of(received: &Incoming) -> Option<Self> {
        if !received.has_own_id {
            return None;
        }
        let message = &received.message;
        let mut hasher = CONTENTS.build_hasher();
        message.body.hash(&mut hasher);
        // Two requests may differ by their callers alone.
        (message.job_name(), message.properties.timestamp(), message.reply_to(), message.correlation_id())
            .hash(&mut hasher);
        for (name, value) in message.properties.headers().iter().flat_map(FieldTable::inner) {
            // The broker writes and changes these; the properties of an unreadable message contain them too.
            if !name.as_str().starts_with("x-") && name.as_str() != header::ORIGINAL {
                name.as_str().hash(&mut hasher);
                hash(value, &mut hasher);
            }
        }
        let envelope = received.envelope;
        Some(Self { id: received.id().into(), attempt: envelope.attempt, hop: envelope.hop, content: hasher.finish() })
    }
}

fn hash(value: &AMQPValue, hasher: &mut impl Hasher) {
    match value {
        AMQPValue::LongString(text) => text.as_bytes().hash(hasher),
        AMQPValue::LongLongInt(number) => number.hash(hasher),
        AMQPValue::LongInt(number) => number.hash(hasher),
        AMQPValue::Timestamp(seconds) => seconds.hash(hasher),
        AMQPValue::Boolean(is_so) => is_so.hash(hasher),
        // Other types are rare enough for their debug form.
        other => format!("{other:?}").hash(hasher),
    }
}

/// A job whose ack may be lost.
#[derive(Debug)]
enum Acked {
    /// A small job, without a result or a checkpoint. Its key is needed only if the channel is lost, and costs more than
    /// to keep the job.
    Job(Arc<Incoming>),
    Key(JobKey),
}

impl Acked {
    fn of(received: &Arc<Incoming>) -> Option<Self> {
        let message = &received.message;
        let holds_more = received.reply.is_some() || !received.checkpoint.is_empty();
        if message.body.len() <= SMALL && message.is_plain() && !holds_more {
            return Some(Self::Job(Arc::clone(received)));
        }
        JobKey::of(received).map(Self::Key)
    }

    fn into_key(self) -> Option<JobKey> {
        match self {
            Self::Job(received) => JobKey::of(&received),
            Self::Key(key) => Some(key),
        }
    }
}

/// A redelivery of a known job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Redelivered {
    /// The attempt with this number still runs here.
    Running(u64),
    /// The job's outcome is safe.
    Settled(Settlement),
}

/// The memory of one consumer across its channels.
#[derive(Debug, Default)]
pub(crate) struct Redeliveries {
    /// Attempts that run and have no channel for their ack.
    orphans: HashMap<JobKey, Vec<u64>>,
    /// Settlements whose channel was lost. For a publisher that reuses its ids there is one for each of its jobs; a
    /// further delivery is another job.
    owed: HashMap<JobKey, Vec<Settlement>>,
    owed_order: VecDeque<JobKey>,
    /// Jobs acked on the current channel, whose acks may be lost with it; at most the prefetch.
    recent: VecDeque<(u64, Acked)>,
    recent_limit: usize,
    /// Number of jobs acked on the current channel.
    acked: u64,
    /// Time when the current channel was opened, or when the consumer accepted deliveries again.
    opened: Option<Instant>,
    /// Time after that for which a redelivery is expected.
    awaited: Duration,
}

impl Redeliveries {
    pub(crate) fn new(prefetch: u16, heartbeat: Duration) -> Self {
        Self { recent_limit: usize::from(prefetch), awaited: AWAITED + 3 * heartbeat, ..Self::default() }
    }

    /// Records an ack on the current channel.
    pub(crate) fn acked(&mut self, received: &Arc<Incoming>) {
        if self.recent.len() == self.recent_limit {
            self.recent.pop_front();
        }
        self.acked += 1;
        let number = self.acked;
        self.recent.extend(Acked::of(received).map(|job| (number, job)));
    }

    /// Records the loss of the channel: its acks after the first `taken` may be lost, and the running attempts have no
    /// channel.
    pub(crate) fn channel_lost<'a>(&mut self, taken: u64, running: impl Iterator<Item = (u64, &'a Incoming)>) {
        self.forget_old();
        self.acked = 0;
        for (_, job) in std::mem::take(&mut self.recent).into_iter().filter(|(number, _)| *number > taken) {
            if let Some(key) = job.into_key() {
                self.remember(key, Settlement::Ack);
            }
        }
        self.orphans.clear();
        for (number, received) in running {
            if let Some(key) = JobKey::of(received) {
                self.orphans.entry(key).or_default().push(number);
            }
        }
    }

    /// Records a new channel: redeliveries arrive soon or never.
    pub(crate) fn channel_opened(&mut self) {
        self.opened = Some(Instant::now());
    }

    /// Records that the consumer accepts deliveries again after a time without a permit. Redeliveries waited in the
    /// client meanwhile, so that time does not count.
    pub(crate) fn resumed(&mut self) {
        if self.opened.is_some() && !self.owed.is_empty() {
            self.opened = Some(Instant::now());
        }
    }

    /// Records the end of an attempt without a channel.
    pub(crate) fn ended(&mut self, number: u64, received: &Incoming, settlement: Settlement) {
        let Some(key) = JobKey::of(received) else { return };
        if let Some(numbers) = self.orphans.get_mut(&key) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.orphans.remove(&key);
            }
        }
        self.remember(key, settlement);
    }

    fn remember(&mut self, key: JobKey, settlement: Settlement) {
        if settlement == Settlement::Requeue {
            return;
        }
        if self.owed_order.len() == REMEMBERED
            && let Some(oldest) = self.owed_order.pop_front()
        {
            self.take_owed(&oldest);
        }
        self.owed.entry(key.clone()).or_default().push(settlement);
        self.owed_order.push_back(key);
    }

    fn take_owed(&mut self, key: &JobKey) -> Option<Settlement> {
        let owed = self.owed.get_mut(key)?;
        let settlement = owed.pop();
        if owed.is_empty() {
            self.owed.remove(key);
        }
        settlement
    }

    /// Drops settlements whose redelivery is overdue.
    fn forget_old(&mut self) {
        if self.opened.is_some_and(|opened| opened.elapsed() > self.awaited) {
            self.owed.clear();
            self.owed_order.clear();
        }
    }

    /// Recognises a redelivery, and forgets what it knew about the job.
    pub(crate) fn recognise(&mut self, received: &Incoming) -> Option<Redelivered> {
        if self.orphans.is_empty() && self.owed.is_empty() {
            return None;
        }
        let key = JobKey::of(received)?;
        if let Some(numbers) = self.orphans.get_mut(&key) {
            let number = numbers.pop();
            if numbers.is_empty() {
                self.orphans.remove(&key);
            }
            return number.map(Redelivered::Running);
        }
        self.forget_old();
        let settlement = self.take_owed(&key)?;
        if let Some(index) = self.owed_order.iter().position(|other| *other == key) {
            self.owed_order.remove(index);
        }
        Some(Redelivered::Settled(settlement))
    }
}

#[cfg(test)]
#[path = "redelivery_tests.rs"]
mod tests;
