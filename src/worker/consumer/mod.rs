//! The core loop: one consumer of one lane of a queue, for the lifetime of its worker.
//!
//! Every end of a session (lost connection, closed channel, deleted queue, cancelled consumer) leads to the same
//! rebuild, indefinitely. Attempts outlive sessions: they run in tasks of this consumer. A delivery that is repeated
//! while its attempt runs is assigned to the running attempt.

mod accept;
mod drain;
mod next;
mod open;

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::Instant,
};

use crate::worker::runtime::BoundQueue;
use crate::{
    attempt::{admission::Incoming, disposition::Settlement, runtime::QueueRuntime, settle::settle},
    error::Error,
    limits::flow::FlowControl,
    observe::metrics::QueueMetrics,
    topology::lane::Lane,
    transport::session::{Delivery, Ended, Session},
    worker::{
        fair_share::{FairShare, LaneShare},
        redelivery::Redeliveries,
    },
};

/// A consumer that is lost within this time waits before the next one starts; otherwise a lasting cause would make a
/// hot loop.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const SHORT_LIFE_PAUSE: Duration = Duration::from_millis(300);

/// Wakeups handled in a row before acks are sent and other tasks get the thread.
const BURST: usize = 64;

pub(crate) struct Consumer<S> {
    handlers: Arc<QueueRuntime<S>>,
    lane: Lane,
    /// The name of this lane's queue.
    name: String,
    metrics: QueueMetrics,
    permits: Arc<Semaphore>,
    /// The number of permits.
    limit: usize,
    prefetch: u16,
    /// The permit for the next delivery.
    permit: Option<OwnedSemaphorePermit>,
    /// If lanes share the permits: this lane's share, and the delivery that waits for a permit.
    shared: Option<LaneShare>,
    waiting: Option<Delivery>,
    /// One task for each unacknowledged job that has not ended.
    tasks: JoinSet<(u64, Settlement)>,
    unacknowledged: HashMap<u64, Unacknowledged>,
    /// Twice the prefetch: jobs of a lost channel may still run beside those of the current one.
    most_unacknowledged: usize,
    next_number: u64,
    redeliveries: Redeliveries,
    /// True if there was no permit for the next delivery at the last attempt.
    is_full: bool,
}

/// A job whose task runs.
struct Unacknowledged {
    received: Arc<Incoming>,
    /// Its delivery tag on the current channel; `None` if its channel was lost.
    tag: Option<u64>,
}

/// The reason why a session is no longer consumed.
enum End {
    Stopped,
    Lost(Ended),
}

/// The result of a job's task.
type Joined = Result<(u64, Settlement), JoinError>;

#[expect(clippy::large_enum_variant, reason = "one at a time, and nearly always the large one")]
/// The reason why the consumer acts: it has waited for one of these.
enum Wakeup {
    Stop,
    Done(Joined),
    Delivered(Delivery, OwnedSemaphorePermit),
    Lost(Ended),
}

/// Waits until the flow may have changed; never completes without flow control.
async fn changed(flow_control: &mut Option<FlowControl>) {
    match flow_control {
        Some(flow_control) => flow_control.changed().await,
        None => std::future::pending().await,
    }
}

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Creates the consumers of a queue: one for each lane.
    pub(crate) fn all(bound: &BoundQueue<S>) -> Vec<Self> {
        let BoundQueue { runtime, queue } = bound;
        let limit = queue.limit();
        let alone = |lane, limit: u16| Self::new(bound, lane, Arc::new(Semaphore::new(limit.into())), None);
        if queue.declaration().is_each_process() {
            return vec![alone(Lane::Main, limit)];
        }
        let suspect = alone(Lane::Suspect, 1);
        let Some(weights) = queue.weights() else { return vec![alone(Lane::Main, limit), suspect] };
        let fair_share = FairShare::new(limit, &weights);
        let lanes = runtime.queue.by_priority().iter().copied().enumerate();
        let sharing = |(index, lane)| Self::new(bound, lane, fair_share.permits(), Some(fair_share.share_of(index)));
        lanes.map(sharing).chain([suspect]).collect()
    }

    fn flow_control(&self) -> Option<FlowControl> {
        let circuits = self.handlers.routes.iter().map(|route| route.needs().to_vec()).collect();
        FlowControl::new(self.handlers.queue.name(), circuits, &self.handlers.dependencies)
    }

    fn new(bound: &BoundQueue<S>, lane: Lane, permits: Arc<Semaphore>, shared: Option<LaneShare>) -> Self {
        let (handlers, prefetch) = (Arc::clone(&bound.runtime), bound.queue.prefetch_of(lane));
        let (name, limit) = (lane.queue_name(&handlers.queue), permits.available_permits());
        let metrics = handlers.broker.metrics().queue(&name);
        handlers.broker.metrics().set_limit(&name, limit as i64);
        let redeliveries = Redeliveries::new(prefetch, handlers.broker.transport().heartbeat());
        let most_unacknowledged = usize::from(prefetch) * 2;
        Self {
            handlers,
            lane,
            name,
            metrics,
            permits,
            limit,
            prefetch,
            permit: None,
            shared,
            waiting: None,
            tasks: JoinSet::new(),
            unacknowledged: HashMap::new(),
            most_unacknowledged,
            next_number: 0,
            redeliveries,
            is_full: false,
        }
    }

    /// Consumes until the worker stops.
    ///
    /// # Errors
    ///
    /// The error that prevents the first start; after the first session there is none.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let mut expected = self.handlers.broker.health().expect_consumer(&self.name);
        let mut has_been_up = false;
        loop {
            let Some(mut session) = self.open(&mut has_been_up).await? else { break };
            expected.set_up(true);
            let opened = Instant::now();
            self.redeliveries.channel_opened();
            let end = self.consume(&mut session).await;
            expected.set_up(false);
            match end {
                End::Stopped => {
                    self.drain(session).await;
                    return Ok(());
                }
                End::Lost(ended) => {
                    match ended {
                        // The connection logs its loss once, for all its consumers.
                        Ended::Connection => {
                            tracing::debug!(queue = self.name, "lost the consumer with its connection");
                        }
                        Ended::Channel(reason) => {
                            tracing::warn!(queue = self.name, error = reason, "lost the consumer, starting another");
                        }
                    }
                    let taken = session.acks_arrived();
                    let lost = session.close().await;
                    self.count_lost(lost);
                    self.orphan(taken);
                    if opened.elapsed() < SHORT_LIFE {
                        self.handlers.stop.drain.run_until_cancelled(tokio::time::sleep(SHORT_LIFE_PAUSE)).await;
                    }
                }
            }
        }
        self.drain_without_session(expected).await;
        Ok(())
    }

    /// Accepts deliveries and settles finished jobs, until the session or the worker ends.
    ///
    /// Wakeups that have occurred are handled in bursts. Acks are sent after a burst, or some milliseconds later together with
    /// others. No ack waits for a running job.
    async fn consume(&mut self, session: &mut Session) -> End {
        let mut linger = pin!(tokio::time::sleep(Duration::ZERO));
        let mut flow_control = self.flow_control();
        loop {
            // While jobs run, the consumer of an ordered queue stays. Otherwise another worker would start the next
            // jobs.
            let may_pause = self.unacknowledged.is_empty() || !self.is_in_order();
            if let Some(flow_control) = &mut flow_control
                && may_pause
                && let Err(ended) = flow_control.keep(session, self.prefetch).await
            {
                return End::Lost(ended);
            }
            let mut handled = 0;
            while handled < BURST
                && let Some(wakeup) = self.ready(session)
            {
                handled += 1;
                if let Some(end) = self.handle(session, wakeup) {
                    return end;
                }
            }
            let (lost, more) = session.flush_due(self.is_patient());
            self.count_lost(lost);
            if let Some(until) = more
                && linger.is_elapsed()
            {
                linger.as_mut().reset(until);
            }
            if handled == BURST {
                tokio::task::yield_now().await;
            }
            let wakeup = tokio::select! {
                biased;
                wakeup = self.next_wakeup(session) => wakeup,
                () = &mut linger, if !linger.is_elapsed() => {
                    self.count_lost(session.flush());
                    continue;
                }
                () = changed(&mut flow_control), if may_pause => continue,
            };
            if let Some(end) = self.handle(session, wakeup) {
                return end;
            }
        }
    }

    fn handle(&mut self, session: &mut Session, wakeup: Wakeup) -> Option<End> {
        match wakeup {
            Wakeup::Delivered(delivery, permit) => self.accept(session, delivery, permit),
            Wakeup::Done(done) => self.joined(session, done),
            Wakeup::Stop => return Some(End::Stopped),
            Wakeup::Lost(ended) => return Some(End::Lost(ended)),
        }
        None
    }

    fn joined(&mut self, session: &mut Session, joined: Joined) {
        match joined {
            Ok((number, settlement)) => self.done(session, number, settlement),
            // Only a drain aborts tasks, and panics are caught inside them.
            Err(error) => tracing::error!(queue = self.name, %error, "a job's task ended without an outcome"),
        }
    }

    fn done(&mut self, session: &mut Session, number: u64, settlement: Settlement) {
        let Some(job) = self.unacknowledged.remove(&number) else { return };
        match job.tag {
            Some(tag) => self.settle(session, tag, &job.received, settlement),
            None => {
                self.count_lost(1);
                self.redeliveries.ended(number, &job.received, settlement);
            }
        }
        if std::mem::take(&mut self.is_full) {
            self.redeliveries.resumed();
        }
    }

    fn settle(&mut self, session: &mut Session, tag: u64, received: &Arc<Incoming>, settlement: Settlement) {
        if settlement == Settlement::Ack {
            self.redeliveries.acked(received);
        }
        let lost = settle(session, tag, settlement, self.is_patient());
        self.count_lost(lost);
    }

    /// Returns whether no handler runs, so that unacknowledged jobs only wait for the confirms of their copies.
    fn is_patient(&self) -> bool {
        self.permits.available_permits() + usize::from(self.permit.is_some()) == self.limit
    }

    /// Counts acks whose jobs the broker will redeliver. A queue of this process alone ends with its connection, and with it
    /// all its deliveries.
    fn count_lost(&self, acks: u64) {
        if acks > 0 && !self.handlers.queue.is_each_process() {
            self.metrics.acks_lost.inc_by(acks);
        }
    }

    /// Handles the loss of the channel, of every tag, and of the acks after the first `taken`.
    fn orphan(&mut self, taken: u64) {
        drop(self.take_waiting());
        for job in self.unacknowledged.values_mut() {
            job.tag = None;
        }
        self.redeliveries
            .channel_lost(taken, self.unacknowledged.iter().map(|(number, job)| (*number, &*job.received)));
    }
}
