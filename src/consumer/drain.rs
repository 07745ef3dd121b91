//! The end of a consumer: what runs may finish, the rest is handed back.

use super::Consumer;
use crate::{broker::Session, health::Wanted, settle::Settlement};

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Finishes what runs until the drain deadline, then hands back the rest.
    pub(super) async fn drain(mut self, mut session: Session) {
        session.stop().await;
        if let Some(delivery) = self.none_waits() {
            session.requeue(delivery.tag);
        }
        while let Some((number, settlement)) = self.next_done().await {
            self.done(&mut session, number, settlement);
            let lost = session.flush();
            self.count_lost(lost);
        }
        self.tasks.abort_all();
        for job in self.in_hand.values() {
            tracing::warn!(
                job = job.received.message.job_name(),
                queue = self.name,
                job_id = job.received.id(),
                "not done by the drain deadline, handed back"
            );
            if let Some(tag) = job.tag {
                session.requeue(tag);
            }
        }
        session.settled().await;
        let lost = session.close().await;
        self.count_lost(lost);
    }

    pub(super) async fn drain_without_session(mut self, wanted: Wanted) {
        while self.next_done().await.is_some() {}
        self.tasks.abort_all();
        drop(wanted);
    }

    /// The next job that is done during a drain; none when all are, or when the deadline is over.
    async fn next_done(&mut self) -> Option<(u64, Settlement)> {
        tokio::select! {
            biased;
            done = self.tasks.join_next() => done.and_then(Result::ok),
            () = self.handlers.stop.abort.cancelled() => None,
        }
    }
}
