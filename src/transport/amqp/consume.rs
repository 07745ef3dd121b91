//! A session: one channel with one consumer, and the acks that belong to it.
//!
//! The consumer loop's task owns it, so acks leave in order and never on a channel other than their own. `basic_ack` is
//! polled once, which queues its frame; awaiting it would wait until another thread has written that one frame.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Consumer,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
    },
    types::{FieldTable, ShortString},
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::transport::amqp::{acks::Acks, connection::LiveConnection, proof::Proof};
use crate::{
    message::{Message, integer, short},
    transport::session::{Delivery, Ended, OpenError},
};

/// How often a channel is looked at that nothing is taken from.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a channel stays open after its last acks. RabbitMQ hands acks on to a quorum queue a few at a time, and
/// forgets those that are left when their channel is closed (seen on 3.10): jobs that are done would run again.
/// Nothing tells a client that the queue has them; thousands at once take some tens of milliseconds.
pub(super) const ACKS_ARRIVE: Duration = Duration::from_millis(500);
/// The pause between flushes while the broker has leave to deliver half the prefetch, or jobs wait for confirms. Each ack frame costs this process
/// and the broker as much as a quarter of a short job.
const LINGER: Duration = Duration::from_millis(1);
/// How long acks may wait for the confirms of copies of the jobs that they are behind.
const PATIENT_LINGER: Duration = Duration::from_millis(5);
/// Messages of a stream on their way at once.
const STREAM_PREFETCH: u16 = 256;
/// RabbitMQ does not answer for a quorum queue that has no leader.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
const CANCELLED: &str = "the broker cancelled the consumer";
/// How long an orderly goodbye may take on a connection that may be dead.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Session {
    up: Arc<LiveConnection>,
    channel: OwnChannel,
    consumer: Consumer,
    tag: ShortString,
    /// lapin tells but once that the broker has cancelled the consumer.
    is_cancelled: bool,
    acks: Acks,
    /// How many jobs were acked on this channel.
    count: u64,
    /// Which of these acks have arrived, where that is of interest.
    proof: Option<Proof>,
    /// When acks were sent last.
    acked: Option<Instant>,
    prefetch: u16,
    /// The consumer was cancelled by us: what is there is taken, and then nothing comes.
    paused: bool,
    /// Delivered to a consumer before the present one.
    before: VecDeque<Delivery>,
    /// Acks that may wait for a flush: half the prefetch, so that the broker never runs out of room to deliver.
    batch: usize,
    /// A task that ends with the session.
    _beside: Option<AbortOnDropHandle<()>>,
}

/// A channel that is closed when it is dropped, wherever that happens.
///
/// A consumer whose opening is given up half-way exists on the broker all the same; without this it would be handed
/// messages that nobody takes.
pub(super) struct OwnChannel(pub(super) Channel);

impl Drop for OwnChannel {
    fn drop(&mut self) {
        // Polled once, the frame is queued; a channel that is closed already says so at once.
        drop(self.0.close(200, "done".into()).now_or_never());
    }
}

impl Session {
    pub(super) async fn open(up: Arc<LiveConnection>, queue: &str, prefetch: u16) -> Result<Self, OpenError> {
        Self::open_with(up, queue, prefetch, FieldTable::default()).await
    }

    /// Reads a stream from that offset on.
    pub(super) async fn open_stream(up: Arc<LiveConnection>, stream: &str, from: u64) -> Result<Self, OpenError> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), integer(from));
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
            proof: None,
            acked: None,
            prefetch,
            paused: false,
            before: VecDeque::new(),
            batch: usize::from(prefetch / 2).max(1),
            _beside: None,
        })
    }

    /// Gives the session a task that ends with it.
    pub(super) fn beside(self, task: AbortOnDropHandle<()>) -> Self {
        Self { _beside: Some(task), ..self }
    }

    /// Finds out from now on which acks have arrived.
    pub(super) fn with_proof_of_acks(self) -> Self {
        Self { proof: Some(Proof::new(self.channel.0.clone())), ..self }
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
        // What lapin still holds of a channel that is gone belongs to the broker again.
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
        self.taken(item)
    }

    /// What has come in already; none if there is nothing. A loss that only the connection knows of shows in
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
        if self.paused && item.is_none() { None } else { Some(self.taken(item)) }
    }

    /// Stops the flow of deliveries; those that are here already are still to be taken.
    pub(crate) async fn pause(&mut self) {
        if !self.paused {
            self.paused = true;
            let cancel = self.channel.0.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
            // A channel that is gone shows in `next`.
            drop(timeout(PATIENCE, cancel).await);
        }
    }

    /// Lets deliveries flow again, with so many in hand.
    pub(crate) async fn resume(&mut self, prefetch: u16) -> Result<(), Ended> {
        let queue = self.consumer.queue();
        let consumed =
            timeout(ANSWERED_WITHIN, Self::subscribe(&self.up, &self.channel, queue, prefetch, FieldTable::default()))
                .await;
        let consumed = consumed.unwrap_or_else(|_| Err(format!("no answer within {ANSWERED_WITHIN:?}")));
        let (consumer, tag) = consumed.map_err(|reason| self.ended(&reason))?;
        // Only now: a broker that was slow to read the cancel has sent on, and all that came before its answer.
        while let Some(Some(Ok(delivery))) = self.consumer.next().now_or_never() {
            let Ok(delivery) = self.taken(Some(Ok(delivery))) else { break };
            self.before.push_back(delivery);
        }
        (self.consumer, self.tag) = (consumer, tag);
        (self.prefetch, self.batch, self.paused) = (prefetch, usize::from(prefetch / 2).max(1), false);
        Ok(())
    }

    fn taken(&mut self, item: Option<lapin::Result<lapin::message::Delivery>>) -> Result<Delivery, Ended> {
        match item {
            Some(Ok(delivery)) => {
                self.acks.delivered(delivery.delivery_tag);
                let message = Message { properties: delivery.properties, body: delivery.data.into() };
                Ok(Delivery { tag: delivery.delivery_tag, redelivered: delivery.redelivered, message })
            }
            Some(Err(error)) => Err(self.ended(&error.to_string())),
            None => {
                self.is_cancelled = true;
                // RabbitMQ 4.3 keeps a consumer attached that it has cancelled, until the client cancels it too.
                drop(self.channel.0.basic_cancel(self.tag.clone(), BasicCancelOptions { nowait: true }).now_or_never());
                Err(self.ended(CANCELLED))
            }
        }
    }

    /// Waits until the channel is gone, also while nothing is taken from it.
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

    /// Sends the acks that wait, those behind a job in hand only if told.
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
        if let Some(proof) = &self.proof
            && self.acks.waiting() == 0
        {
            proof.written(self.count);
        }
        if lost { (before - self.acks.waiting()) as u64 } else { 0 }
    }

    /// The acks of this channel up to the returned number cannot be lost any more.
    pub(crate) fn acks_taken(&self) -> u64 {
        self.proof.as_ref().map_or(0, Proof::taken)
    }

    pub(crate) fn reject(&mut self, tag: u64, requeue: bool) {
        if self.acks.settle(tag) {
            // A channel that is gone has handed its deliveries back already.
            if requeue {
                // From 4.3 on RabbitMQ does not count this against the job, as it does a reject.
                let options = BasicNackOptions { multiple: false, requeue: true };
                drop(self.channel.0.basic_nack(tag, options).now_or_never());
            } else {
                drop(self.channel.0.basic_reject(tag, BasicRejectOptions { requeue: false }).now_or_never());
            }
        }
    }

    /// Stops the flow of deliveries; returns those that were never taken.
    pub(crate) async fn withdraw(&mut self) -> Vec<Delivery> {
        self.flush(true);
        let cancel = self.channel.0.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        if !matches!(timeout(PATIENCE, cancel).await, Ok(Ok(()))) {
            tracing::debug!("the consumer was gone before it was cancelled");
        }
        let mut untaken = Vec::from(std::mem::take(&mut self.before));
        while let Some(Some(Ok(delivery))) = self.consumer.next().now_or_never() {
            let Ok(delivery) = self.taken(Some(Ok(delivery))) else { break };
            untaken.push(delivery);
        }
        untaken
    }

    /// Waits until the broker has done what it was told on this channel before.
    pub(crate) async fn round_trip(&self) -> Result<(), Ended> {
        let asked = self.channel.0.basic_qos(self.prefetch, BasicQosOptions::default());
        self.up.unless_lost(asked).await.map_err(|reason| self.ended(&reason))
    }

    /// Waits until the broker has what was acked.
    pub(crate) async fn settled(&mut self) {
        self.flush(true);
        if let Some(acked) = self.acked {
            sleep_until(acked + ACKS_ARRIVE).await;
        }
    }

    pub(crate) async fn close(mut self) -> u64 {
        let lost = self.flush(true);
        if !matches!(timeout(PATIENCE, self.channel.0.close(200, "done".into())).await, Ok(Ok(()))) {
            tracing::debug!("the channel was gone before it was closed");
        }
        lost
    }
}
