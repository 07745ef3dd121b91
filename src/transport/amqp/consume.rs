//! A session: one channel with one consumer, and its acks.
//!
//! The consumer loop's task owns it, so acks are sent in order and never on another channel. `basic_ack` is polled
//! once, which queues its frame. Awaiting it would wait until another thread has written that frame.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Consumer,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::transport::amqp::{ack_tracker::AckTracker, acks::Acks, connection::LiveConnection};
use crate::{
    message::{Message, integer, short, text},
    topology::Start,
    transport::session::{Delivery, Ended, OpenError},
};

/// Interval of checks of a channel without deliveries.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which a channel stays open after its last acks. RabbitMQ passes acks to a quorum queue a few at a time, and
/// loses the rest when their channel is closed (seen on 3.10): finished jobs would run again. A client cannot learn
/// that the queue has them. Thousands at once take some tens of milliseconds.
pub(super) const ACKS_ARRIVE: Duration = Duration::from_millis(500);
/// Pause between flushes while the broker can still deliver half the prefetch, or jobs wait for confirms. Each ack
/// frame costs this process and the broker as much as a quarter of a short job.
const LINGER: Duration = Duration::from_millis(1);
/// Longest wait of acks for the confirms of earlier jobs' copies.
const PATIENT_LINGER: Duration = Duration::from_millis(5);
/// Prefetch of a stream.
const STREAM_PREFETCH: u16 = 256;
/// Longest wait for an answer. RabbitMQ does not answer for a quorum queue without a leader.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
const CANCELLED: &str = "the broker cancelled the consumer";
/// Longest wait for an orderly close on a connection that may be dead.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct AmqpSession {
    up: Arc<LiveConnection>,
    channel: OwnChannel,
    consumer: Consumer,
    tag: ShortString,
    /// True if the broker cancelled the consumer; lapin reports that only once.
    is_cancelled: bool,
    acks: Acks,
    /// The number of jobs acked on this channel.
    count: u64,
    /// The acks that have arrived, if the session tracks them.
    ack_tracker: Option<AckTracker>,
    /// The time of the last sent acks.
    acked: Option<Instant>,
    prefetch: u16,
    /// True if this process cancelled the consumer: remaining deliveries are returned, and no more arrive.
    paused: bool,
    /// Deliveries to an earlier consumer of this session.
    before: VecDeque<Delivery>,
    /// The number of acks that may wait for a flush: half the prefetch, so that the broker can always deliver.
    batch: usize,
    /// For a subscription, the exchange of events: its messages may name their topic by the routing key alone. With the
    /// size in bytes over which a payload is refused.
    topics: Option<(ShortString, usize)>,
    /// A task that ends with the session.
    _task: Option<AbortOnDropHandle<()>>,
}

/// A channel that is closed when it is dropped.
///
/// A consumer whose opening is cancelled half-way exists on the broker nevertheless. Without this it would receive
/// messages that are never handled.
pub(super) struct OwnChannel(pub(super) Channel);

impl Drop for OwnChannel {
    fn drop(&mut self) {
        // One poll queues the frame; on a closed channel, the poll fails at once.
        drop(self.0.close(200, "done".into()).now_or_never());
    }
}

impl AmqpSession {
    pub(super) async fn open(up: Arc<LiveConnection>, queue: &str, prefetch: u16) -> Result<Self, OpenError> {
        Self::open_with(up, queue, prefetch, FieldTable::default()).await
    }

    /// Reads a stream from offset `from` on.
    pub(super) async fn open_stream(up: Arc<LiveConnection>, stream: &str, from: u64) -> Result<Self, OpenError> {
        Self::open_stream_at(up, stream, Start::Offset(from)).await
    }

    pub(super) async fn open_stream_at(up: Arc<LiveConnection>, stream: &str, start: Start) -> Result<Self, OpenError> {
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let offset = match start {
            Start::First => text("first"),
            Start::Last => text("last"),
            Start::Next => text("next"),
            Start::Time(at) => AMQPValue::Timestamp(seconds(at)),
            Start::Offset(offset) => integer(offset),
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), offset);
        Self::open_with(up, stream, STREAM_PREFETCH, arguments).await
    }

    async fn open_with(
        up: Arc<LiveConnection>,
        queue: &str,
        prefetch: u16,
        arguments: FieldTable,
    ) -> Result<Self, OpenError> {
        let passing = |reason: String| OpenError::Passing(format!("queue {queue:?}: {reason}"));
        let opened = timeout(ANSWERED_WITHIN, Self::consume(up, queue, prefetch, arguments)).await;
        opened.unwrap_or_else(|_| Err(format!("no answer within {ANSWERED_WITHIN:?}"))).map_err(passing)
    }

    async fn consume(
        up: Arc<LiveConnection>,
        queue: &str,
        prefetch: u16,
        arguments: FieldTable,
    ) -> Result<Self, String> {
        let channel = OwnChannel(up.channel().await?);
        let (consumer, tag) = Self::subscribe(&up, &channel, short(queue), prefetch, arguments).await?;
        Ok(Self {
            up,
            channel,
            consumer,
            tag,
            is_cancelled: false,
            acks: Acks::default(),
            count: 0,
            ack_tracker: None,
            acked: None,
            prefetch,
            paused: false,
            before: VecDeque::new(),
            batch: usize::from(prefetch / 2).max(1),
            topics: None,
            _task: None,
        })
    }

    /// Adds a task that ends with the session.
    pub(super) fn with_task(self, task: AbortOnDropHandle<()>) -> Self {
        Self { _task: Some(task), ..self }
    }

    /// Reads the topic of an event from its routing key, if the event has no `type`.
    pub(super) fn with_topics(self, topics: ShortString, payload_limit: usize) -> Self {
        Self { topics: Some((topics, payload_limit)), ..self }
    }

    /// Tracks from now on which acks have arrived.
    pub(super) fn with_proof_of_acks(self) -> Self {
        Self { ack_tracker: Some(AckTracker::new(self.channel.0.clone())), ..self }
    }

    async fn subscribe(
        up: &LiveConnection,
        channel: &OwnChannel,
        queue: ShortString,
        prefetch: u16,
        arguments: FieldTable,
    ) -> Result<(Consumer, ShortString), String> {
        up.unless_lost(channel.0.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let tag = short(&format!("leveret-{}", Uuid::now_v7()));
        let consume = channel.0.basic_consume(queue, tag.clone(), BasicConsumeOptions::default(), arguments);
        Ok((up.unless_lost(consume).await?, tag))
    }

    pub(crate) async fn next(&mut self) -> Result<Delivery, Ended> {
        // The broker has requeued the deliveries that lapin still holds for a lost channel.
        if self.is_lost() {
            return Err(self.ended("the channel was lost"));
        }
        if let Some(delivery) = self.before.pop_front() {
            return Ok(delivery);
        }
        if self.is_cancelled {
            return Err(self.ended(CANCELLED));
        }
        let item = tokio::select! {
            biased;
            item = self.consumer.next() => item,
            () = self.up.lost.cancelled() => return Err(Ended::Connection),
        };
        if self.paused && item.is_none() {
            return Err(self.lost().await);
        }
        self.received(item)
    }

    /// Returns a delivery that has already arrived, if there is one. A loss that only the connection knows of shows in
    /// [`next`](Self::next).
    pub(crate) fn try_next(&mut self) -> Option<Result<Delivery, Ended>> {
        if !self.channel.0.status().connected() {
            return Some(Err(self.ended("the channel was lost")));
        }
        if let Some(delivery) = self.before.pop_front() {
            return Some(Ok(delivery));
        }
        if self.is_cancelled {
            return Some(Err(self.ended(CANCELLED)));
        }
        let item = self.consumer.next().now_or_never()?;
        if self.paused && item.is_none() { None } else { Some(self.received(item)) }
    }

    /// Stops new deliveries; those that have arrived are still returned.
    pub(crate) async fn pause(&mut self) {
        if !self.paused {
            self.paused = true;
            let cancel = self.channel.0.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
            // A lost channel shows in `next`.
            drop(timeout(CLOSE_TIMEOUT, cancel).await);
        }
    }

    /// Starts deliveries again, with this prefetch.
    pub(crate) async fn resume(&mut self, prefetch: u16) -> Result<(), Ended> {
        let queue = self.consumer.queue();
        let consumed =
            timeout(ANSWERED_WITHIN, Self::subscribe(&self.up, &self.channel, queue, prefetch, FieldTable::default()))
                .await;
        let consumed = consumed.unwrap_or_else(|_| Err(format!("no answer within {ANSWERED_WITHIN:?}")));
        let (consumer, tag) = consumed.map_err(|reason| self.ended(&reason))?;
        // A broker that read the cancel late has sent more deliveries. All of them arrived before its answer to the new
        // subscription.
        while let Some(Some(Ok(delivery))) = self.consumer.next().now_or_never() {
            let Ok(delivery) = self.received(Some(Ok(delivery))) else { break };
            self.before.push_back(delivery);
        }
        (self.consumer, self.tag) = (consumer, tag);
        (self.prefetch, self.batch, self.paused) = (prefetch, usize::from(prefetch / 2).max(1), false);
        Ok(())
    }

    fn received(&mut self, item: Option<lapin::Result<lapin::message::Delivery>>) -> Result<Delivery, Ended> {
        match item {
            Some(Ok(delivery)) => {
                self.acks.delivered(delivery.delivery_tag);
                let mut message = Message { properties: delivery.properties, body: delivery.data.into() };
                if let Some((topics, payload_limit)) = &self.topics
                    && delivery.exchange == *topics
                {
                    if message.job_name().is_none() {
                        // Copies come back under another routing key.
                        message.properties = std::mem::take(&mut message.properties).with_type(delivery.routing_key);
                    }
                    message.adopt_cloud_event_id(*payload_limit);
                }
                Ok(Delivery { tag: delivery.delivery_tag, redelivered: delivery.redelivered, message })
            }
            Some(Err(error)) => Err(self.ended(&error.to_string())),
            None => {
                self.is_cancelled = true;
                // RabbitMQ 4.3 keeps a cancelled consumer attached until the client cancels it too.
                drop(self.channel.0.basic_cancel(self.tag.clone(), BasicCancelOptions { nowait: true }).now_or_never());
                Err(self.ended(CANCELLED))
            }
        }
    }

    /// Waits until the channel is lost, also while no deliveries are read from it.
    pub(crate) async fn lost(&self) -> Ended {
        while !self.is_lost() && timeout(CHECK_INTERVAL, self.up.lost.cancelled()).await.is_err() {}
        self.ended("the channel was lost")
    }

    fn ended(&self, reason: &str) -> Ended {
        let connected = !self.up.lost.is_cancelled() && self.up.connection.status().connected();
        if connected { Ended::Channel(reason.to_owned()) } else { Ended::Connection }
    }

    fn is_lost(&self) -> bool {
        self.up.lost.is_cancelled() || !self.channel.0.status().connected()
    }

    pub(crate) fn ack(&mut self, tag: u64, patient: bool) -> u64 {
        self.count += 1;
        if self.acks.finish(tag) >= self.batch { self.flush(!patient) } else { 0 }
    }

    pub(crate) fn flush_due(&mut self, patient: bool) -> (u64, Option<Instant>) {
        if self.acks.waiting() == 0 {
            return (0, None);
        }
        let now = Instant::now();
        let has_leave = self.acks.waiting() + self.acks.open() < self.batch;
        if (has_leave || patient)
            && let Some(next) = self.acked.map(|acked| acked + LINGER)
            && next > now
        {
            return (0, Some(next));
        }
        let lost = self.flush(!patient);
        (lost, (self.acks.waiting() > 0).then(|| now + PATIENT_LINGER))
    }

    /// Sends the waiting acks; those behind an unfinished job only if `behind` is set.
    pub(crate) fn flush(&mut self, behind: bool) -> u64 {
        if self.acks.waiting() == 0 {
            return 0;
        }
        let (channel, mut lost, mut sent) = (&self.channel.0, false, false);
        let before = self.acks.waiting();
        self.acks.flush(behind, |ack| {
            let options = BasicAckOptions { multiple: ack.multiple };
            lost |= matches!(channel.basic_ack(ack.tag, options).now_or_never(), Some(Err(_)));
            sent = true;
        });
        if sent {
            self.acked = Some(Instant::now());
        }
        if let Some(ack_tracker) = &self.ack_tracker
            && self.acks.waiting() == 0
        {
            ack_tracker.written(self.count);
        }
        if lost { (before - self.acks.waiting()) as u64 } else { 0 }
    }

    /// Returns the number up to which this channel's acks cannot be lost any more.
    pub(crate) fn acks_arrived(&self) -> u64 {
        self.ack_tracker.as_ref().map_or(0, AckTracker::handled)
    }

    pub(crate) fn reject(&mut self, tag: u64, requeue: bool) {
        if self.acks.settle(tag) {
            // A lost channel has already requeued its deliveries.
            if requeue {
                // From 4.3 on RabbitMQ does not count a nack with requeue against the job, unlike a reject.
                let options = BasicNackOptions { multiple: false, requeue: true };
                drop(self.channel.0.basic_nack(tag, options).now_or_never());
            } else {
                drop(self.channel.0.basic_reject(tag, BasicRejectOptions { requeue: false }).now_or_never());
            }
        }
    }

    /// Stops new deliveries; returns the remaining ones.
    pub(crate) async fn withdraw(&mut self) -> Vec<Delivery> {
        self.flush(true);
        let cancel = self.channel.0.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        if !matches!(timeout(CLOSE_TIMEOUT, cancel).await, Ok(Ok(()))) {
            tracing::debug!("the consumer was gone before it was cancelled");
        }
        let mut remaining = Vec::from(std::mem::take(&mut self.before));
        while let Some(Some(Ok(delivery))) = self.consumer.next().now_or_never() {
            let Ok(delivery) = self.received(Some(Ok(delivery))) else { break };
            remaining.push(delivery);
        }
        remaining
    }

    /// Waits until the broker has handled all earlier commands of this channel.
    pub(crate) async fn round_trip(&self) -> Result<(), Ended> {
        let asked = self.channel.0.basic_qos(self.prefetch, BasicQosOptions::default());
        self.up.unless_lost(asked).await.map_err(|reason| self.ended(&reason))
    }

    /// Waits until the broker has processed the acks.
    pub(crate) async fn settled(&mut self) {
        self.flush(true);
        if let Some(acked) = self.acked {
            sleep_until(acked + ACKS_ARRIVE).await;
        }
    }

    pub(crate) async fn close(mut self) -> u64 {
        let lost = self.flush(true);
        if !matches!(timeout(CLOSE_TIMEOUT, self.channel.0.close(200, "done".into())).await, Ok(Ok(()))) {
            tracing::debug!("the channel was gone before it was closed");
        }
        lost
    }
}
