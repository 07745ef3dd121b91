//! The end of a consumer: running jobs may finish, and the rest is requeued.
//!
//! Before 4.3, RabbitMQ counts each requeue against a job, as if its process had crashed. A regular stop must not make
//! a job suspect. So a job that was cut off is requeued as a confirmed copy, whose count starts at zero. A job that has
//! not started keeps its place: it is requeued itself, unless the next count would make it suspect.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::worker::consumer::Consumer;
use crate::{
    attempt::{
        admission::{self, Incoming},
        disposition::{Disposition, Settlement},
        settle,
        task::Work,
    },
    message::Message,
    observe::health::ExpectedConsumer,
    shutdown::Unfinished,
    topology::lane::Lane,
    transport::session::{Delivery, Session},
};

/// Time for dropped attempts to end; they end at their next `.await`.
const DROPPED_WITHIN: Duration = Duration::from_millis(100);

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Lets running jobs finish until the drain deadline, then requeues the rest.
    pub(super) async fn drain(mut self, mut session: Session) {
        let jobs = self.unacknowledged.iter().map(|(number, job)| (*number, job.received.id()));
        let mut unfinished = Unfinished::new(jobs);
        if !self.is_in_order() {
            for delivery in session.withdraw().await {
                self.requeue_unstarted(&mut session, delivery);
            }
            if let Some(delivery) = self.take_waiting() {
                self.requeue_unstarted(&mut session, delivery);
            }
        }
        while let Some((number, settlement)) = self.next_done().await {
            unfinished.remove(number);
            self.done(&mut session, number, settlement);
            let lost = session.flush();
            self.count_lost(lost);
        }
        self.cut(&mut session).await;
        drop(unfinished);
        // RabbitMQ loses acks that have not arrived when their channel is closed.
        let settled = timeout(self.handlers.broker.config().stop_timeouts().settled, session.settled());
        if settled.await.is_err() {
            tracing::debug!(queue = self.name, "closing a channel whose last acks may not have arrived");
        }
        let lost = session.close().await;
        self.count_lost(lost);
    }

    pub(super) async fn drain_without_session(mut self, wanted: ExpectedConsumer) {
        while self.next_done().await.is_some() {}
        self.tasks.abort_all();
        drop(wanted);
    }

    /// Returns whether other workers must not have jobs of this queue while this one has some. If so, the consumer
    /// stays until its channel is closed, and then the broker delivers the unacknowledged jobs to the next consumer in
    /// order.
    pub(super) fn is_in_order(&self) -> bool {
        self.handlers.queue.is_single_active() && self.lane != Lane::Suspect
    }

    /// Returns the next job that ends during a drain; `None` when all have ended or the deadline has passed.
    async fn next_done(&mut self) -> Option<(u64, Settlement)> {
        tokio::select! {
            biased;
            done = self.tasks.join_next() => done.and_then(Result::ok),
            () = self.handlers.stop.abort.cancelled() => None,
        }
    }

    /// Requeues a job that has not started.
    fn requeue_unstarted(&mut self, session: &mut Session, delivery: Delivery) {
        let Delivery { tag, redelivered, message } = delivery;
        if self.unfit(&message).is_some() {
            return session.requeue(tag);
        }
        let is_nearly_suspect = self.is_nearly_suspect(&message);
        let received = Arc::new(Incoming::read(message, redelivered, self.handlers.broker.now()));
        // A job that still runs here, or has ended, must not go to another worker.
        if redelivered && let Some(known) = self.redeliveries.recognise(&received) {
            return self.settle_known(session, tag, &received, &known);
        }
        if !is_nearly_suspect {
            return session.requeue(tag);
        }
        self.start(session, tag, received, Work::Settle(Disposition::Requeued));
    }

    /// Returns whether one more requeue would make the job suspect.
    fn is_nearly_suspect(&self, message: &Message) -> bool {
        message.delivery_count().saturating_add(1)
            >= admission::suspicious(self.lane, self.handlers.queue.is_single_active())
    }

    /// Drops the running attempts and requeues their jobs, as copies if the broker confirms those in time.
    async fn cut(&mut self, session: &mut Session) {
        self.tasks.abort_all();
        let ended = async {
            while let Some(joined) = self.tasks.join_next().await {
                if let Ok((number, settlement)) = joined {
                    self.done(session, number, settlement);
                }
            }
        };
        // An attempt that does not end computes or blocks; its thread cannot be stopped.
        drop(timeout(DROPPED_WITHIN, ended).await);
        let jobs: Vec<_> = self.unacknowledged.drain().map(|(_, job)| job).collect();
        let within = self.handlers.broker.config().stop_timeouts().requeued;
        let in_order = self.is_in_order();
        let (queue, broker) = (&self.handlers.queue, &self.handlers.broker);
        let requeued = jobs.iter().map(async |job| {
            tracing::warn!(
                job = job.received.message.job_name(),
                queue = self.name,
                job_id = job.received.id(),
                "not done by the drain deadline, requeued"
            );
            let message = &job.received.message;
            let copied =
                job.tag.is_some() && self.unfit(message).is_none() && (!in_order || self.is_nearly_suspect(message));
            if !copied {
                return Settlement::Requeue;
            }
            let copy = settle::carry_out(&Disposition::Requeued, &job.received, (queue, self.lane), broker);
            timeout(within, copy).await.unwrap_or(Settlement::Requeue)
        });
        let settlements = join_all(requeued).await;
        for (job, settlement) in jobs.iter().zip(settlements) {
            // In an ordered queue, a requeue now would be delivered to this consumer again. The end of its channel
            // requeues the job.
            if let Some(tag) = job.tag
                && !(in_order && settlement == Settlement::Requeue)
            {
                self.settle(session, tag, &job.received, settlement);
            }
        }
    }
}
