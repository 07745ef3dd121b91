//! What this worker knows of jobs whose channel died before their ack was through.
//!
//! After a reconnect the broker delivers again what was in hand. Such a delivery may be of a job that still runs here:
//! then the running attempt adopts it. Or of one whose outcome is already safe: then it is settled without running.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, Hasher},
    sync::LazyLock,
    time::Duration,
};

use foldhash::fast::RandomState;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;

use crate::{intake::Received, message::header, settle::Settlement};

/// Settlements that are remembered for a delivery to come; the oldest go first. A worker that needs more of them has a
/// larger prefetch than RabbitMQ allows.
const REMEMBERED: usize = 10_000;
/// A redelivery that has not come so long after the channel was opened has gone to another worker. What bears the same
/// id later is another job of a publisher that repeats its ids.
const AWAITED: Duration = Duration::from_secs(300);

static CONTENTS: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// What makes a redelivery the same delivery: a publisher that gives one id to different jobs must lose none of them,
/// so all that it wrote counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JobKey {
    id: Box<str>,
    attempt: u32,
    hop: u32,
    content: u64,
}

impl JobKey {
    /// None for a message without an id of its own: its redelivery cannot be told from another message.
    pub(crate) fn of(received: &Received) -> Option<Self> {
        if !received.has_own_id {
            return None;
        }
        let message = &received.message;
        let mut hasher = CONTENTS.build_hasher();
        message.body.hash(&mut hasher);
        (message.job_name(), message.properties.timestamp()).hash(&mut hasher);
        for (name, value) in message.properties.headers().iter().flat_map(FieldTable::inner) {
            // Those are the broker's, which counts in them; the properties of an unreadable message hold them too.
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
        // Rare enough to be spelt out.
        other => format!("{other:?}").hash(hasher),
    }
}

/// A redelivery that this worker knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The attempt of this number still runs here.
    Running(u64),
    /// Its outcome is safe.
    Settled(Settlement),
}

/// The memory of one consumer across its channels.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    /// Attempts that run without a channel to be acked on.
    orphans: HashMap<JobKey, Vec<u64>>,
    /// Settlements that no channel has taken.
    owed: HashMap<JobKey, Settlement>,
    owed_order: VecDeque<JobKey>,
    /// Jobs acked on the present channel, whose acks may be lost with it; the broker has at most the prefetch of them.
    recent: VecDeque<JobKey>,
    recent_limit: usize,
    /// When the present channel was opened.
    opened: Option<Instant>,
}

impl Adoption {
    pub(crate) fn new(prefetch: u16) -> Self {
        Self { recent_limit: usize::from(prefetch), ..Self::default() }
    }

    /// Notes an ack on the present channel.
    pub(crate) fn acked(&mut self, received: &Received) {
        if self.recent.len() == self.recent_limit {
            self.recent.pop_front();
        }
        self.recent.extend(JobKey::of(received));
    }

    /// The channel died: its acks may be lost, and these attempts have none any more.
    pub(crate) fn channel_lost<'a>(&mut self, running: impl Iterator<Item = (u64, &'a Received)>) {
        for key in std::mem::take(&mut self.recent) {
            self.remember(key, Settlement::Ack);
        }
        self.orphans.clear();
        for (number, received) in running {
            if let Some(key) = JobKey::of(received) {
                self.orphans.entry(key).or_default().push(number);
            }
        }
    }

    /// There is a channel again: what is owed comes back soon, or never.
    pub(crate) fn channel_opened(&mut self) {
        self.opened = Some(Instant::now());
    }

    /// An attempt without a channel has come to its end.
    pub(crate) fn ended(&mut self, number: u64, received: &Received, settlement: Settlement) {
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
            self.owed.remove(&oldest);
        }
        if self.owed.insert(key.clone(), settlement).is_none() {
            self.owed_order.push_back(key);
        }
    }

    /// Recognises a redelivery; what it knew of it is used up.
    pub(crate) fn recognise(&mut self, received: &Received) -> Option<Known> {
        if self.orphans.is_empty() && self.owed.is_empty() {
            return None;
        }
        let key = JobKey::of(received)?;
        if let Some(numbers) = self.orphans.get_mut(&key) {
            let number = numbers.pop();
            if numbers.is_empty() {
                self.orphans.remove(&key);
            }
            return number.map(Known::Running);
        }
        if self.opened.is_some_and(|opened| opened.elapsed() > AWAITED) {
            self.owed.clear();
            self.owed_order.clear();
            return None;
        }
        let settlement = self.owed.remove(&key)?;
        self.owed_order.retain(|other| *other != key);
        Some(Known::Settled(settlement))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::Now, job::JobId, message::Message};

    fn received(id: &str, body: &str) -> Received {
        Received::read(Message::new("j", &JobId::from(id), body.as_bytes().to_vec(), 0), true, Now::at(0))
    }

    #[test]
    fn a_redelivery_of_a_running_job_is_adopted_once() {
        let mut adoption = Adoption::new(10);
        let job = received("a", "{}");
        assert_eq!(adoption.recognise(&job), None);
        adoption.channel_lost([(7, &job)].into_iter());
        assert_eq!(adoption.recognise(&received("a", "[]")), None);
        assert_eq!(adoption.recognise(&job), Some(Known::Running(7)));
        assert_eq!(adoption.recognise(&job), None);
    }

    #[test]
    fn jobs_that_bear_one_id_and_differ_in_anything_are_not_taken_for_each_other() {
        let with = |name: &str, body: String, header: &str| {
            let mut message = Message::new(name, &JobId::from("order-17"), body.into_bytes(), 0);
            message.set_header("tenant", AMQPValue::LongString(header.into()));
            Received::read(message, true, Now::at(0))
        };
        let long = |middle: &str| format!("{}{middle}{}", "x".repeat(4_000), "x".repeat(4_000));
        let done = with("receipt", long("a"), "one");
        let mut again = with("receipt", long("a"), "one");
        again.message.set_header(header::DELIVERY_COUNT, crate::message::integer(1));
        again.message.set_header(header::ORIGINAL, AMQPValue::LongString("with that count".into()));
        for other in
            [with("invoice", long("a"), "one"), with("receipt", long("b"), "one"), with("receipt", long("a"), "two")]
        {
            let mut adoption = Adoption::new(10);
            adoption.acked(&done);
            adoption.channel_lost(std::iter::empty());
            assert_eq!(adoption.recognise(&other), None);
            assert_eq!(adoption.recognise(&again), Some(Known::Settled(Settlement::Ack)));
        }
    }

    #[test]
    fn a_lost_ack_is_sent_when_the_job_comes_back() {
        let mut adoption = Adoption::new(2);
        let (first, second, third) = (received("1", "{}"), received("2", "{}"), received("3", "{}"));
        [&first, &second, &third].into_iter().for_each(|job| adoption.acked(job));
        adoption.channel_lost(std::iter::empty());
        assert_eq!(adoption.recognise(&first), None, "the broker can have lost two acks at most");
        assert_eq!(adoption.recognise(&second), Some(Known::Settled(Settlement::Ack)));
        assert_eq!(adoption.recognise(&second), None);
        assert_eq!(adoption.recognise(&third), Some(Known::Settled(Settlement::Ack)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_bears_an_old_id_long_after_is_another_job() {
        let mut adoption = Adoption::new(2);
        let job = received("tick", "{}");
        adoption.acked(&job);
        adoption.channel_lost(std::iter::empty());
        adoption.channel_opened();
        tokio::time::advance(AWAITED + Duration::from_secs(1)).await;
        assert_eq!(adoption.recognise(&job), None);
    }

    #[test]
    fn an_orphan_that_ends_leaves_its_settlement() {
        let mut adoption = Adoption::new(2);
        let job = received("a", "{}");
        adoption.channel_lost([(1, &job)].into_iter());
        adoption.ended(1, &job, Settlement::Reject);
        assert_eq!(adoption.recognise(&job), Some(Known::Settled(Settlement::Reject)));
    }

    #[test]
    fn memory_of_settlements_is_bounded() {
        let mut adoption = Adoption::new(2);
        for number in 0..REMEMBERED + 5 {
            adoption.ended(0, &received(&number.to_string(), ""), Settlement::Ack);
        }
        assert_eq!((adoption.owed.len(), adoption.owed_order.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(adoption.recognise(&received("4", "")), None);
        assert!(adoption.recognise(&received("5", "")).is_some());
    }
}
