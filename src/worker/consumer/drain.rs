//! The end of a consumer: what runs may finish, the rest is handed back.
//!
//! Before 4.3 RabbitMQ counts each return against a job, as if its process had been killed. A stop in good order must not
//! make a job suspect, so a job that was cut off goes back as a copy, which is confirmed first and counts from nothing. A
//! job that has not started keeps its place: it is returned, unless the next count would make it suspect.

use std::time::Duration;

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
    observe::health::Wanted,
    shutdown::Unfinished,
    topology::lane::Lane,
    transport::session::{Delivery, Session},
};

/// How long attempts that are dropped may take to end, at the next point at which they wait.
const DROPPED_WITHIN: Duration = Duration::from_millis(100);

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Finishes what runs until the drain deadline, then hands back the rest.
    pub(super) async fn drain(mut self, mut session: Session) {
        let jobs = self.in_hand.iter().map(|(number, job)| (*number, job.received.id()));
        let mut unfinished = Unfinished::new(jobs);
        if !self.is_in_order() {
            for delivery in session.withdraw().await {
                self.hand_back(&mut session, delivery);
            }
            if let Some(delivery) = self.none_waits() {
                self.hand_back(&mut session, delivery);
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
        // RabbitMQ forgets acks that have not arrived when their channel is closed.
        let settled = timeout(self.handlers.broker.config().last_moments().settled, session.settled());
        if settled.await.is_err() {
            tracing::debug!(queue = self.name, "closing a channel whose last acks may not have arrived");
        }
        let lost = session.close().await;
        self.count_lost(lost);
    }

    pub(super) async fn drain_without_session(mut self, wanted: Wanted) {
        while self.next_done().await.is_some() {}
        self.tasks.abort_all();
        drop(wanted);
    }

    /// Whether no other worker may have jobs of this queue while this one has some. Then the consumer stays until its
    /// channel is closed: the broker hands what is unacknowledged then to the next one, in order.
    pub(super) fn is_in_order(&self) -> bool {
        self.handlers.queue.is_single_active() && self.lane != Lane::Suspect
    }

    /// The next job that is done during a drain; none when all are, or when the deadline is over.
    async fn next_done(&mut self) -> Option<(u64, Settlement)> {
        tokio::select! {
            biased;
            done = self.tasks.join_next() => done.and_then(Result::ok),
            () = self.handlers.stop.abort.cancelled() => None,
        }
    }

    /// Hands back a job that has not started.
    fn hand_back(&mut self, session: &mut Session, delivery: Delivery) {
        let Delivery { tag, redelivered, message } = delivery;
        if self.unfit(&message).is_some() {
            return session.requeue(tag);
        }
        let is_nearly_suspect = self.is_nearly_suspect(&message);
        let received = Incoming::read(message, redelivered, self.handlers.broker.now());
        // A job that still runs here, or is done, is no other worker's.
        if redelivered && let Some(known) = self.redeliveries.recognise(&received) {
            return self.adopt(session, tag, &received, &known);
        }
        if !is_nearly_suspect {
            return session.requeue(tag);
        }
        self.start(session, tag, received, Work::Settle(Disposition::Requeued));
    }

    /// Whether one more return would make the job suspect.
    fn is_nearly_suspect(&self, message: &Message) -> bool {
        message.delivery_count().saturating_add(1)
            >= admission::suspicious(self.lane, self.handlers.queue.is_single_active())
    }

    /// Drops what still runs and hands it back, with a copy if the broker confirms that in time.
    async fn cut(&mut self, session: &mut Session) {
        self.tasks.abort_all();
        let ended = async {
            while let Some(joined) = self.tasks.join_next().await {
                if let Ok((number, settlement)) = joined {
                    self.done(session, number, settlement);
                }
            }
        };
        // One that does not end computes or blocks: its thread cannot be stopped.
        drop(timeout(DROPPED_WITHIN, ended).await);
        let jobs: Vec<_> = self.in_hand.drain().map(|(_, job)| job).collect();
        let within = self.handlers.broker.config().last_moments().handed_back;
        let in_order = self.is_in_order();
        let (queue, broker) = (&self.handlers.queue, &self.handlers.broker);
        let handed_back = jobs.iter().map(async |job| {
            tracing::warn!(
                job = job.received.message.job_name(),
                queue = self.name,
                job_id = job.received.id(),
                "not done by the drain deadline, handed back"
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
        let settlements = join_all(handed_back).await;
        for (job, settlement) in jobs.iter().zip(settlements) {
            // In order, what is returned now would come back to this consumer; the end of its channel returns it.
            if let Some(tag) = job.tag
                && !(in_order && settlement == Settlement::Requeue)
            {
                self.settle(session, tag, &job.received, settlement);
            }
        }
    }
}
