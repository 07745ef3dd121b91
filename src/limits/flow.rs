//! How fast a queue is consumed while what its jobs need is down: not at all, or one job at a time to see whether it is up
//! again. Its jobs stay in the queue meanwhile, where they cost nothing.

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    limits::circuit_breaker::{Breaker, Breakers},
    transport::session::{Ended, Session},
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

/// Keeps one session at the flow of its queue.
pub(crate) struct FlowControl {
    queue: String,
    /// The circuits of each job of the queue.
    jobs: Vec<Vec<Arc<Breaker>>>,
    changed: watch::Receiver<()>,
    flow: Flow,
}

impl FlowControl {
    /// `jobs` are the circuits of each job of the queue. None for a queue with a job that needs no circuit: that queue is
    /// always consumed.
    pub(crate) fn new(queue: &str, jobs: Vec<Vec<Arc<Breaker>>>, breakers: &Breakers) -> Option<Self> {
        let is_controlled = jobs.iter().all(|circuits| !circuits.is_empty());
        is_controlled.then(|| Self { queue: queue.to_owned(), jobs, changed: breakers.watch(), flow: Flow::Full })
    }

    /// Tells the session what is different from before; it has `prefetch` in hand when nothing is down.
    pub(crate) async fn keep(&mut self, session: &mut Session, prefetch: u16) -> Result<(), Ended> {
        self.changed.mark_unchanged();
        let before = std::mem::replace(&mut self.flow, flow(&self.jobs));
        let is_none = |flow| matches!(flow, Flow::None(_));
        if before == self.flow || (is_none(before) && is_none(self.flow)) {
            return Ok(());
        }
        tracing::info!(queue = self.queue, flow = ?self.flow, "consuming at another rate");
        session.pause().await;
        match self.flow {
            Flow::None(_) => Ok(()),
            Flow::One => session.resume(1).await,
            Flow::Full => session.resume(prefetch).await,
        }
    }

    /// Waits until the pace may be another.
    pub(crate) async fn changed(&mut self) {
        let until = async {
            match self.flow {
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
fn flow(jobs: &[Vec<Arc<Breaker>>]) -> Flow {
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
        let both = || flow(&[needs_smtp.to_vec(), needs_both.to_vec()]);
        assert_eq!(both(), Flow::Full);
        fail(&other, 3);
        assert_eq!(both(), Flow::Full, "one of them can run");
        fail(&smtp, 3);
        assert_eq!(both(), Flow::None(Some(Instant::now() + 10 * SECOND)));
        assert_eq!(flow(&[needs_smtp.to_vec(), none.to_vec()]), Flow::Full);
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(both(), Flow::One);
        smtp.admit(0.0);
        assert_eq!(flow(&[needs_smtp.to_vec()]), Flow::None(None));
    }
}
