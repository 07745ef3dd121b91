//! Decides about each delivery, and starts its job.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    attempt::{
        admission::{self, Incoming},
        disposition::{Disposition, Settlement},
        task::{Task, Work},
    },
    message::Message,
    outcome::{ErrorKind, Finish},
    topology::lane::Lane,
    trace::{ConsumedLane, TraceSpan},
    transport::session::{Delivery, Session},
    worker::{
        consumer::{Consumer, Unacknowledged},
        redelivery::Redelivered,
    },
};

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Decides about a delivery and starts its task.
    pub(super) fn accept(&mut self, session: &mut Session, delivery: Delivery, permit: OwnedSemaphorePermit) {
        let now = self.handlers.broker.now();
        let Delivery { tag, redelivered, message } = delivery;
        let received = Arc::new(Incoming::read(message, redelivered || self.lane == Lane::Suspect, now));
        let unfit = self.unfit(&received.message);
        if unfit.is_none()
            && redelivered
            && let Some(known) = self.redeliveries.recognise(&received)
        {
            return self.settle_known(session, tag, &received, &known);
        }
        let index = self.handlers.find(received.message.job_name());
        let metrics = self.handlers.metrics(index);
        metrics.received(redelivered);
        if received.message.is_transient() {
            metrics.transient.inc();
        }
        if let Some((kind, reason)) = unfit {
            // The end of a step, or of a request, is reported before it is settled.
            if (received.step.is_some() || received.reply.is_some()) && !received.message.must_not_be_rejected() {
                return self.start(session, tag, received, Work::Reject(Disposition::dead(kind, reason)));
            }
            metrics.error(kind);
            if received.message.must_not_be_rejected() {
                let work = Work::Settle(Disposition::dead(kind, reason));
                return self.start(session, tag, received, work);
            }
            metrics.finished(Finish::Dead);
            let (job, job_id) = (received.message.job_name(), received.id());
            tracing::error!(job, queue = self.name, job_id, %kind, error = reason, "cannot process the message, rejecting it");
            let from = ConsumedLane { broker: &self.handlers.broker, queue: &self.handlers.queue, lane: self.lane };
            TraceSpan::settle(from, received.delivered()).settled(
                from,
                Settlement::Reject.as_str(),
                Some(Finish::Dead),
            );
            return self.settle(session, tag, &received, Settlement::Reject);
        }
        let route = || index.ok_or_else(|| self.handlers.without_handler(&received));
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

    /// Returns why a message cannot be copied and is dead-lettered unchanged; `None` for every other message.
    pub(super) fn unfit(&self, message: &Message) -> Option<(ErrorKind, String)> {
        if let Some(reason) = message.unreadable() {
            return Some((ErrorKind::Decode, reason.to_owned()));
        }
        let (size, limit) = (message.body.len(), self.handlers.broker.config().payload_limit);
        (size > limit).then(|| (ErrorKind::TooLarge, format!("a payload of {size} bytes, and the limit is {limit}")))
    }

    /// Starts a job's task, or finishes it at once if one poll is enough.
    pub(super) fn start(&mut self, session: &mut Session, tag: u64, received: Arc<Incoming>, work: Work) {
        let inline = matches!(&work, Work::Run(index, _) if self.handlers.routes[*index].may_start_inline());
        let task = Task {
            handlers: Arc::clone(&self.handlers),
            received: Arc::clone(&received),
            lane: self.lane,
            in_progress: self.metrics.in_progress.clone(),
        };
        // Panics of handlers are caught inside. After a panic of Leveret's own code the job is requeued.
        let run = AssertUnwindSafe(task.run(work)).catch_unwind();
        let mut running = Box::pin(run.map(|settlement| settlement.unwrap_or(Settlement::Requeue)));
        if inline && let Some(settlement) = (&mut running).now_or_never() {
            return self.settle(session, tag, &received, settlement);
        }
        let number = self.next_number;
        self.next_number += 1;
        self.unacknowledged.insert(number, Unacknowledged { received, tag: Some(tag) });
        self.tasks.spawn(async move { (number, running.await) });
    }

    pub(super) fn settle_known(
        &mut self,
        session: &mut Session,
        tag: u64,
        received: &Arc<Incoming>,
        known: &Redelivered,
    ) {
        let (queue, job_id) = (&self.name, received.id());
        match known {
            Redelivered::Running(number) => {
                if let Some(job) = self.unacknowledged.get_mut(number) {
                    tracing::debug!(queue, job_id, "redelivered while it runs here: not started again");
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
}
