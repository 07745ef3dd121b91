//! How fast a queue is consumed while what its jobs need is down: not at all, or one job at a time to see whether it is up
//! again. Its jobs stay in the queue meanwhile, where they cost nothing.

use tokio::{sync::watch, time::sleep_until};

use crate::{
    breaker::{Pace, pace},
    broker::{Ended, Session},
    worker::Handlers,
};

/// Keeps one session at the pace of its queue.
pub(crate) struct Pacer {
    changed: watch::Receiver<()>,
    pace: Pace,
}

impl Pacer {
    /// None for a queue with a job that needs nothing: that one is always consumed.
    pub(crate) fn new<S>(handlers: &Handlers<S>) -> Option<Self> {
        let paced = handlers.routes.iter().all(|route| !route.needs().is_empty());
        paced.then(|| Self { changed: handlers.dependencies.watch(), pace: Pace::Full })
    }

    /// Tells the session what is different from before; it has `prefetch` in hand when nothing is down.
    pub(crate) async fn keep<S>(
        &mut self,
        session: &mut Session,
        handlers: &Handlers<S>,
        prefetch: u16,
    ) -> Result<(), Ended> {
        self.changed.mark_unchanged();
        let before = std::mem::replace(&mut self.pace, pace(handlers.routes.iter().map(|route| route.needs())));
        let is_none = |pace| matches!(pace, Pace::None(_));
        if before == self.pace || (is_none(before) && is_none(self.pace)) {
            return Ok(());
        }
        tracing::info!(queue = handlers.queue.name(), pace = ?self.pace, "consuming at another pace");
        session.pause().await;
        match self.pace {
            Pace::None(_) => Ok(()),
            Pace::One => session.resume(1).await,
            Pace::Full => session.resume(prefetch).await,
        }
    }

    /// Waits until the pace may be another.
    pub(crate) async fn changed(&mut self) {
        let until = async {
            match self.pace {
                Pace::None(Some(until)) => sleep_until(until).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            // Its sender lives as long as the handlers.
            _ = self.changed.changed() => {}
            () = until => {}
        }
    }
}
