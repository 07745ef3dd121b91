//! Recognises redeliveries of jobs whose channel was lost before their ack arrived.
//!
//! After a reconnect the broker redelivers the unacknowledged jobs. If such a job still runs here, the running attempt
//! gets the new delivery. If its outcome is already safe, the delivery is settled without running the job. Redeliveries
//! that hint at a job which crashes its worker are counted in `attempt/admission.rs`.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, Hasher},
    sync::LazyLock,
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
    recent: VecDeque<(u64, JobKey)>,
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
    pub(crate) fn acked(&mut self, received: &Incoming) {
        if self.recent.len() == self.recent_limit {
            self.recent.pop_front();
        }
        self.acked += 1;
        let number = self.acked;
        self.recent.extend(JobKey::of(received).map(|key| (number, key)));
    }

    /// Records the loss of the channel: its acks after the first `taken` may be lost, and the running attempts have no
    /// channel.
    pub(crate) fn channel_lost<'a>(&mut self, taken: u64, running: impl Iterator<Item = (u64, &'a Incoming)>) {
        self.forget_old();
        self.acked = 0;
        for (_, key) in std::mem::take(&mut self.recent).into_iter().filter(|(number, _)| *number > taken) {
            self.remember(key, Settlement::Ack);
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
mod tests {
    use super::*;
    use crate::{job::JobId, message::Message, transport::clock::Now};

    const SECOND: Duration = Duration::from_secs(1);

    fn received(id: &str, body: &str) -> Incoming {
        Incoming::read(Message::new("j", &JobId::from(id), body.as_bytes().to_vec(), 0), true, Now::at(0))
    }

    #[test]
    fn a_redelivery_of_a_running_job_is_adopted_once() {
        let mut redeliveries = Redeliveries::new(10, SECOND);
        let job = received("a", "{}");
        assert_eq!(redeliveries.recognise(&job), None);
        redeliveries.channel_lost(0, [(7, &job)].into_iter());
        assert_eq!(redeliveries.recognise(&received("a", "[]")), None);
        assert_eq!(redeliveries.recognise(&job), Some(Redelivered::Running(7)));
        assert_eq!(redeliveries.recognise(&job), None);
    }

    #[test]
    fn jobs_that_have_one_id_and_differ_in_anything_are_not_taken_for_each_other() {
        let with = |name: &str, body: String, header: &str| {
            let mut message = Message::new(name, &JobId::from("order-17"), body.into_bytes(), 0);
            message.set_header("tenant", AMQPValue::LongString(header.into()));
            Incoming::read(message, true, Now::at(0))
        };
        let long = |middle: &str| format!("{}{middle}{}", "x".repeat(4_000), "x".repeat(4_000));
        let done = with("receipt", long("a"), "one");
        let mut again = with("receipt", long("a"), "one");
        again.message.set_header(header::DELIVERY_COUNT, crate::message::integer(1));
        again.message.set_header(header::ORIGINAL, AMQPValue::LongString("with that count".into()));
        for other in
            [with("invoice", long("a"), "one"), with("receipt", long("b"), "one"), with("receipt", long("a"), "two")]
        {
            let mut redeliveries = Redeliveries::new(10, SECOND);
            redeliveries.acked(&done);
            redeliveries.channel_lost(0, std::iter::empty());
            assert_eq!(redeliveries.recognise(&other), None);
            assert_eq!(redeliveries.recognise(&again), Some(Redelivered::Settled(Settlement::Ack)));
        }
    }

    #[test]
    fn requests_of_two_callers_are_not_taken_for_each_other() {
        let asked = |correlation: &str| {
            let mut message = Message::new("quote", &JobId::from("order-17"), b"{}".to_vec(), 0);
            let properties = std::mem::take(&mut message.properties);
            message.properties =
                properties.with_reply_to("leveret.v1.reply.a".into()).with_correlation_id(correlation.into());
            Incoming::read(message, true, Now::at(0))
        };
        let mut redeliveries = Redeliveries::new(10, SECOND);
        redeliveries.acked(&asked("1"));
        redeliveries.channel_lost(0, std::iter::empty());
        assert_eq!(redeliveries.recognise(&asked("2")), None);
        assert_eq!(redeliveries.recognise(&asked("1")), Some(Redelivered::Settled(Settlement::Ack)));
    }

    #[test]
    fn a_lost_ack_is_sent_when_the_job_comes_back() {
        let mut redeliveries = Redeliveries::new(2, SECOND);
        let (first, second, third) = (received("1", "{}"), received("2", "{}"), received("3", "{}"));
        [&first, &second, &third].into_iter().for_each(|job| redeliveries.acked(job));
        redeliveries.channel_lost(0, std::iter::empty());
        assert_eq!(redeliveries.recognise(&first), None, "the broker can have lost two acks at most");
        assert_eq!(redeliveries.recognise(&second), Some(Redelivered::Settled(Settlement::Ack)));
        assert_eq!(redeliveries.recognise(&second), None);
        assert_eq!(redeliveries.recognise(&third), Some(Redelivered::Settled(Settlement::Ack)));
    }

    #[test]
    fn an_ack_that_has_arrived_is_not_awaited() {
        let mut redeliveries = Redeliveries::new(9, SECOND);
        let (first, second) = (received("1", "{}"), received("2", "{}"));
        [&first, &second].into_iter().for_each(|job| redeliveries.acked(job));
        redeliveries.channel_lost(1, std::iter::empty());
        assert_eq!(redeliveries.recognise(&first), None, "another job with its id");
        assert_eq!(redeliveries.recognise(&second), Some(Redelivered::Settled(Settlement::Ack)));
        redeliveries.acked(&first);
        redeliveries.channel_lost(1, std::iter::empty());
        assert_eq!(redeliveries.recognise(&first), None, "each channel counts its own acks");
    }

    #[test]
    fn of_jobs_that_have_one_id_as_many_are_settled_as_acks_may_be_lost() {
        let mut redeliveries = Redeliveries::new(9, SECOND);
        let job = received("tick", "{}");
        (0..3).for_each(|_| redeliveries.acked(&job));
        redeliveries.channel_lost(1, std::iter::empty());
        let settled = (0..5).filter(|_| redeliveries.recognise(&job).is_some()).count();
        assert_eq!((settled, redeliveries.owed_order.len()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_are_lost_again_and_again_do_not_keep_what_is_owed() {
        let mut redeliveries = Redeliveries::new(2, SECOND);
        let job = received("tick", "{}");
        redeliveries.acked(&job);
        for _ in 0..2 {
            redeliveries.channel_lost(0, std::iter::empty());
            redeliveries.channel_opened();
            tokio::time::advance(AWAITED + 4 * SECOND).await;
        }
        redeliveries.channel_lost(0, std::iter::empty());
        redeliveries.channel_opened();
        assert_eq!(redeliveries.recognise(&job), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_has_an_old_id_long_after_is_another_job() {
        let mut redeliveries = Redeliveries::new(2, SECOND);
        let job = received("tick", "{}");
        redeliveries.acked(&job);
        redeliveries.channel_lost(0, std::iter::empty());
        redeliveries.channel_opened();
        tokio::time::advance(AWAITED + 4 * SECOND).await;
        assert_eq!(redeliveries.recognise(&job), None);
    }

    #[test]
    fn an_orphan_that_ends_leaves_its_settlement() {
        let mut redeliveries = Redeliveries::new(2, SECOND);
        let job = received("a", "{}");
        redeliveries.channel_lost(0, [(1, &job)].into_iter());
        redeliveries.ended(1, &job, Settlement::Reject);
        assert_eq!(redeliveries.recognise(&job), Some(Redelivered::Settled(Settlement::Reject)));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_could_be_taken_does_not_count() {
        let mut redeliveries = Redeliveries::new(1, SECOND);
        let job = received("long", "{}");
        redeliveries.channel_lost(0, [(1, &job)].into_iter());
        redeliveries.channel_opened();
        tokio::time::advance(Duration::from_secs(600)).await;
        redeliveries.ended(1, &job, Settlement::Ack);
        redeliveries.resumed();
        assert_eq!(redeliveries.recognise(&job), Some(Redelivered::Settled(Settlement::Ack)));
    }

    #[test]
    fn memory_of_settlements_is_bounded() {
        let mut redeliveries = Redeliveries::new(2, SECOND);
        for number in 0..REMEMBERED + 5 {
            redeliveries.ended(0, &received(&number.to_string(), ""), Settlement::Ack);
        }
        assert_eq!((redeliveries.owed.len(), redeliveries.owed_order.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(redeliveries.recognise(&received("4", "")), None);
        assert!(redeliveries.recognise(&received("5", "")).is_some());
    }
}
