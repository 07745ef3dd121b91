//! How fast a queue is consumed while what its jobs need is down: not at all, or one job at a time to see whether it is up
//! again. Its jobs stay in the queue meanwhile, where they cost nothing.

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    limits::circuit_breaker::Breaker,
    transport::session::{Ended, Session},
    worker::runtime::QueueRuntime,
};

/// How many jobs a queue may take, all of whose jobs need something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Full,
    /// One at a time, to probe with.
    One,
    /// None before that time, if it is known.
    None(Option<Instant>),
}

/// Keeps one session at the pace of its queue.
pub(crate) struct FlowControl {
    changed: watch::Receiver<()>,
    pace: Flow,
}

impl FlowControl {
    /// None for a queue with a job that needs nothing: that one is always consumed.
    pub(crate) fn new<S>(handlers: &QueueRuntime<S>) -> Option<Self> {
        let paced = handlers.routes.iter().all(|route| !route.needs().is_empty());
        paced.then(|| Self { changed: handlers.dependencies.watch(), pace: Flow::Full })
    }

    /// Tells the session what is different from before; it has `prefetch` in hand when nothing is down.
    pub(crate) async fn keep<S>(
        &mut self,
        session: &mut Session,
        handlers: &QueueRuntime<S>,
        prefetch: u16,
    ) -> Result<(), Ended> {
        self.changed.mark_unchanged();
        let before = std::mem::replace(&mut self.pace, pace(handlers.routes.iter().map(|route| route.needs())));
        let is_none = |pace| matches!(pace, Flow::None(_));
        if before == self.pace || (is_none(before) && is_none(self.pace)) {
            return Ok(());
        }
        tracing::info!(queue = handlers.queue.name(), pace = ?self.pace, "consuming at another pace");
        session.pause().await;
        match self.pace {
            Flow::None(_) => Ok(()),
            Flow::One => session.resume(1).await,
            Flow::Full => session.resume(prefetch).await,
        }
    }

    /// Waits until the pace may be another.
    pub(crate) async fn changed(&mut self) {
        let until = async {
            match self.pace {
                Flow::None(Some(until)) => sleep_until(until).await,
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

/// The pace of a queue: that of the job that has the most freedom, which is as free as the worst that it needs.
fn pace<'a>(jobs: impl Iterator<Item = &'a [Arc<Breaker>]>) -> Flow {
    let now = Instant::now();
    let mut best: Option<Flow> = None;
    for needs in jobs {
        let pace = needs.iter().map(|breaker| breaker.pace(now)).reduce(worse).unwrap_or(Flow::Full);
        best = Some(best.map_or(pace, |best| if worse(best, pace) == best { pace } else { best }));
    }
    best.unwrap_or(Flow::Full)
}

fn worse(a: Flow, b: Flow) -> Flow {
    match (a, b) {
        (Flow::None(Some(a)), Flow::None(Some(b))) => Flow::None(Some(a.max(b))),
        // One whose end is not known is told of.
        (Flow::None(None), _) | (_, Flow::None(None)) => Flow::None(None),
        (none @ Flow::None(_), _) | (_, none @ Flow::None(_)) => none,
        (Flow::One, _) | (_, Flow::One) => Flow::One,
        (Flow::Full, Flow::Full) => Flow::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::circuit_breaker::tests::{SECOND, breaker, fail};

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_as_free_as_its_freest_job() {
        let (smtp, other) = (breaker(), breaker());
        let (needs_smtp, needs_both, none) = ([smtp.clone()], [smtp.clone(), other.clone()], []);
        let both = || pace([&needs_smtp[..], &needs_both[..]].into_iter());
        assert_eq!(both(), Flow::Full);
        fail(&other, 3);
        assert_eq!(both(), Flow::Full, "one of them can run");
        fail(&smtp, 3);
        assert_eq!(both(), Flow::None(Some(Instant::now() + 10 * SECOND)));
        assert_eq!(pace([&needs_smtp[..], &none[..]].into_iter()), Flow::Full);
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(both(), Flow::One);
        smtp.admit(0.0);
        assert_eq!(pace([&needs_smtp[..]].into_iter()), Flow::None(None));
    }
}
