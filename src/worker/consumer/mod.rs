//! The core loop: one consumer of one lane of a queue, for as long as its worker lives.
//!
//! Whatever ends a session (a lost connection, a closed channel, a queue deleted, a consumer cancelled) ends in the same
//! rebuild, for ever. Attempts outlive sessions: they run in tasks of this consumer, and what the broker delivers again
//! while they run is adopted, not started again.

mod drain;
mod next;
mod open;

use std::{collections::HashMap, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::Instant,
};

use crate::worker::runtime::BoundQueue;
use crate::{
    attempt::{
        admission::{self, Incoming},
        disposition::{Disposition, Settlement},
        runtime::QueueRuntime,
        settle::settle,
        task::{Task, Work},
    },
    error::Error,
    limits::flow::FlowControl,
    message::Message,
    observe::metrics::QueueMetrics,
    outcome::{ErrorKind, Finish},
    topology::lane::Lane,
    trace::{Place, TraceSpan},
    transport::session::{Delivery, Ended, Session},
    worker::{
        fair_share::{FairShare, LaneShare},
        redelivery::{Redelivered, Redeliveries},
    },
};

/// A consumer that is lost again so soon waits before the next: what ends it at once would else be a hot loop.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const SHORT_LIFE_PAUSE: Duration = Duration::from_millis(300);

/// Events after which acks leave and others get the thread, though more events are there.
const BURST: usize = 64;

pub(crate) struct Consumer<S> {
    handlers: Arc<QueueRuntime<S>>,
    lane: Lane,
    /// The broker's name of this lane.
    name: String,
    metrics: QueueMetrics,
    permits: Arc<Semaphore>,
    /// How many there are.
    limit: usize,
    prefetch: u16,
    /// Held for the next delivery.
    permit: Option<OwnedSemaphorePermit>,
    /// Where lanes share the permits: this lane's part in them, and the delivery that waits for its turn.
    shared: Option<LaneShare>,
    waiting: Option<Delivery>,
    /// One task for each job in hand that is not done with.
    tasks: JoinSet<(u64, Settlement)>,
    in_hand: HashMap<u64, Unacknowledged>,
    /// Twice the prefetch: jobs of a lost channel may still be in hand beside those of the present one.
    most_in_hand: usize,
    next_number: u64,
    redeliveries: Redeliveries,
    /// There was no permit for the next delivery when it was last asked for.
    is_full: bool,
}

/// A job whose task runs.
struct Unacknowledged {
    received: Arc<Incoming>,
    /// Its delivery on the present channel; none if that has been lost.
    tag: Option<u64>,
}

/// Why a session is no longer consumed.
enum End {
    Stopped,
    Lost(Ended),
}

/// A job's task that has ended.
type Joined = Result<(u64, Settlement), JoinError>;

#[expect(clippy::large_enum_variant, reason = "one at a time, and nearly always the large one")]
enum Event {
    Stop,
    Done(Joined),
    Delivered(Delivery, OwnedSemaphorePermit),
    Lost(Ended),
}

/// Waits until the pace may be another, where it is kept at all.
async fn changed(flow_control: &mut Option<FlowControl>) {
    match flow_control {
        Some(flow_control) => flow_control.changed().await,
        None => std::future::pending().await,
    }
}

impl<S: Send + Sync + 'static> Consumer<S> {
    /// The consumers of a queue: one for each of its lanes.
    pub(crate) fn all(bound: &BoundQueue<S>) -> Vec<Self> {
        let BoundQueue { runtime, queue } = bound;
        let limit = queue.limit();
        let alone = |lane, limit: u16| Self::new(bound, lane, Arc::new(Semaphore::new(limit.into())), None);
        if queue.declaration().is_each_process() {
            return vec![alone(Lane::Main, limit)];
        }
        let suspect = alone(Lane::Suspect, 1);
        let Some(weights) = queue.weights() else { return vec![alone(Lane::Main, limit), suspect] };
        let turns = FairShare::new(limit, &weights);
        let lanes = runtime.queue.by_priority().iter().copied().enumerate();
        let sharing = |(index, lane)| Self::new(bound, lane, turns.permits(), Some(turns.turn(index)));
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
        let most_in_hand = usize::from(prefetch) * 2;
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
            in_hand: HashMap::new(),
            most_in_hand,
            next_number: 0,
            redeliveries,
            is_full: false,
        }
    }

    /// Consumes until told to stop.
    ///
    /// # Errors
    ///
    /// What keeps it from ever starting; once it has been up, nothing does.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let mut wanted = self.handlers.broker.health().want(&self.name);
        let mut has_been_up = false;
        loop {
            let Some(mut session) = self.open(&mut has_been_up).await? else { break };
            wanted.set_up(true);
            let opened = Instant::now();
            self.redeliveries.channel_opened();
            let end = self.consume(&mut session).await;
            wanted.set_up(false);
            match end {
                End::Stopped => {
                    self.drain(session).await;
                    return Ok(());
                }
                End::Lost(ended) => {
                    match ended {
                        // Told once by the connection, for all its consumers.
                        Ended::Connection => {
                            tracing::debug!(queue = self.name, "lost the consumer with its connection");
                        }
                        Ended::Channel(reason) => {
                            tracing::warn!(queue = self.name, error = reason, "lost the consumer, starting another");
                        }
                    }
                    let taken = session.acks_taken();
                    let lost = session.close().await;
                    self.count_lost(lost);
                    self.orphan(taken);
                    if opened.elapsed() < SHORT_LIFE {
                        self.handlers.stop.drain.run_until_cancelled(tokio::time::sleep(SHORT_LIFE_PAUSE)).await;
                    }
                }
            }
        }
        self.drain_without_session(wanted).await;
        Ok(())
    }

    /// Takes deliveries and settles what is done, until the session or the worker ends.
    ///
    /// Events that are there already are handled in bursts. Acks leave after one, or linger for some milliseconds to leave
    /// with others; none waits for a job that runs.
    async fn consume(&mut self, session: &mut Session) -> End {
        let mut linger = pin!(tokio::time::sleep(Duration::ZERO));
        let mut flow_control = self.flow_control();
        loop {
            // While jobs run the consumer of an ordered queue stays: without it another worker would start the next ones.
            let may_pause = self.in_hand.is_empty() || !self.is_in_order();
            if let Some(flow_control) = &mut flow_control
                && may_pause
                && let Err(ended) = flow_control.keep(session, self.prefetch).await
            {
                return End::Lost(ended);
            }
            let mut handled = 0;
            while handled < BURST
                && let Some(event) = self.ready(session)
            {
                handled += 1;
                if let Some(end) = self.handle(session, event) {
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
            let event = tokio::select! {
                biased;
                event = self.next_event(session) => event,
                () = &mut linger, if !linger.is_elapsed() => {
                    self.count_lost(session.flush());
                    continue;
                }
                () = changed(&mut flow_control), if may_pause => continue,
            };
            if let Some(end) = self.handle(session, event) {
                return end;
            }
        }
    }

    fn handle(&mut self, session: &mut Session, event: Event) -> Option<End> {
        match event {
            Event::Delivered(delivery, permit) => self.take(session, delivery, permit),
            Event::Done(done) => self.joined(session, done),
            Event::Stop => return Some(End::Stopped),
            Event::Lost(ended) => return Some(End::Lost(ended)),
        }
        None
    }

    /// Decides about a delivery and sets going what it needs.
    fn take(&mut self, session: &mut Session, delivery: Delivery, permit: OwnedSemaphorePermit) {
        let now = self.handlers.broker.now();
        let Delivery { tag, redelivered, message } = delivery;
        let received = Incoming::read(message, redelivered || self.lane == Lane::Suspect, now);
        let unfit = self.unfit(&received.message);
        if unfit.is_none()
            && redelivered
            && let Some(known) = self.redeliveries.recognise(&received)
        {
            return self.adopt(session, tag, &received, &known);
        }
        let index = self.handlers.find(received.message.job_name());
        let metrics = self.handlers.metrics(index);
        metrics.received(redelivered);
        if received.message.is_transient() {
            metrics.transient.inc();
        }
        if let Some((kind, reason)) = unfit {
            metrics.error(kind);
            if received.message.must_not_be_rejected() {
                let work = Work::Settle(Disposition::dead(kind, reason));
                return self.start(session, tag, received, work);
            }
            metrics.finished(Finish::Dead);
            let (job, job_id) = (received.message.job_name(), received.id());
            tracing::error!(job, queue = self.name, job_id, %kind, error = reason, "cannot take the message, rejecting it");
            let place = Place { broker: &self.handlers.broker, queue: &self.handlers.queue, lane: self.lane };
            TraceSpan::settle(place, received.delivered()).settled(
                place,
                Settlement::Reject.as_str(),
                Some(Finish::Dead),
            );
            return self.settle(session, tag, &received, Settlement::Reject);
        }
        let route = |_: Option<&str>| index.ok_or_else(|| self.handlers.without_handler(&received));
        let place = (self.lane, self.handlers.queue.is_single_active());
        let work = match admission::decide(&received, place, now, route) {
            Ok(index) => Work::Run(index, permit),
            Err(disposition) => {
                if let Some((kind, _)) = disposition.failure() {
                    metrics.error(kind);
                }
                Work::Settle(disposition)
            }
        };
        self.start(session, tag, received, work);
    }

    /// Why a message goes to the dead letters as it is, if it cannot even be copied.
    fn unfit(&self, message: &Message) -> Option<(ErrorKind, String)> {
        if let Some(reason) = message.unreadable() {
            return Some((ErrorKind::Decode, reason.to_owned()));
        }
        let (size, limit) = (message.body.len(), self.handlers.broker.config().payload_limit);
        (size > limit).then(|| (ErrorKind::TooLarge, format!("a payload of {size} bytes, and the limit is {limit}")))
    }

    /// Starts a job's task, or finishes it at once if one poll is enough.
    fn start(&mut self, session: &mut Session, tag: u64, received: Incoming, work: Work) {
        let received = Arc::new(received);
        let inline = matches!(&work, Work::Run(index, _) if self.handlers.routes[*index].may_start_inline());
        let task = Task {
            handlers: Arc::clone(&self.handlers),
            received: Arc::clone(&received),
            lane: self.lane,
            in_progress: self.metrics.in_progress.clone(),
        };
        // Handlers' panics are caught within; after one of our own the job is another worker's.
        let run = AssertUnwindSafe(task.run(work)).catch_unwind();
        let mut running = Box::pin(run.map(|settlement| settlement.unwrap_or(Settlement::Requeue)));
        if inline && let Some(settlement) = (&mut running).now_or_never() {
            return self.settle(session, tag, &received, settlement);
        }
        let number = self.next_number;
        self.next_number += 1;
        self.in_hand.insert(number, Unacknowledged { received, tag: Some(tag) });
        self.tasks.spawn(async move { (number, running.await) });
    }

    fn adopt(&mut self, session: &mut Session, tag: u64, received: &Incoming, known: &Redelivered) {
        let (queue, job_id) = (&self.name, received.id());
        match known {
            Redelivered::Running(number) => {
                if let Some(job) = self.in_hand.get_mut(number) {
                    tracing::debug!(queue, job_id, "redelivered while it runs here: adopted");
                    job.tag = Some(tag);
                }
            }
            Redelivered::Settled(settlement) => {
                tracing::debug!(queue, job_id, "redelivered after its end: settled without running");
                self.handlers.metrics(self.handlers.find(received.message.job_name())).finished(Finish::Duplicate);
                // Its ack may be lost again.
                self.settle(session, tag, received, *settlement);
            }
        }
    }

    fn joined(&mut self, session: &mut Session, joined: Joined) {
        match joined {
            Ok((number, settlement)) => self.done(session, number, settlement),
            // Only a drain aborts tasks, and panics are caught inside them.
            Err(error) => tracing::error!(queue = self.name, %error, "a job's task ended without an outcome"),
        }
    }

    fn done(&mut self, session: &mut Session, number: u64, settlement: Settlement) {
        let Some(job) = self.in_hand.remove(&number) else { return };
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

    fn settle(&mut self, session: &mut Session, tag: u64, received: &Incoming, settlement: Settlement) {
        if settlement == Settlement::Ack {
            self.redeliveries.acked(received);
        }
        let lost = settle(session, tag, settlement, self.is_patient());
        self.count_lost(lost);
    }

    /// Whether no handler runs, so that jobs in hand only wait for the confirms of their copies.
    fn is_patient(&self) -> bool {
        self.permits.available_permits() + usize::from(self.permit.is_some()) == self.limit
    }

    fn count_lost(&self, acks: u64) {
        if acks > 0 {
            self.metrics.acks_lost.inc_by(acks);
        }
    }

    /// The channel is gone, and with it every tag and the acks after the first `taken`.
    fn orphan(&mut self, taken: u64) {
        drop(self.none_waits());
        for job in self.in_hand.values_mut() {
            job.tag = None;
        }
        self.redeliveries.channel_lost(taken, self.in_hand.iter().map(|(number, job)| (*number, &*job.received)));
    }
}
