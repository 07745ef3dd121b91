//! Limits the flow of a queue while the circuits of its jobs are open: no jobs, or one probe at a time. The jobs stay
//! in the queue meanwhile, at no cost.

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    limits::circuit_breaker::{Breaker, Breakers},
    transport::session::{Ended, Session},
};

/// The flow of a queue whose jobs all use circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Full,
    /// One job at a time, as a probe.
    One,
    /// No job before that time, if it is known.
    None(Option<Instant>),
}

/// Applies the flow of a queue to one session.
pub(crate) struct FlowControl {
    queue: String,
    /// The circuits of each job of the queue.
    jobs: Vec<Vec<Arc<Breaker>>>,
    changed: watch::Receiver<()>,
    flow: Flow,
}

impl FlowControl {
    /// Creates a flow control. `jobs` are the circuits of each job of the queue. Returns `None` if a job uses no
    /// circuit: such a queue is always consumed.
    pub(crate) fn new(queue: &str, jobs: Vec<Vec<Arc<Breaker>>>, breakers: &Breakers) -> Option<Self> {
        let is_controlled = jobs.iter().all(|circuits| !circuits.is_empty());
        is_controlled.then(|| Self { queue: queue.to_owned(), jobs, changed: breakers.watch(), flow: Flow::Full })
    }

    /// Applies a changed flow to the session, whose prefetch is `prefetch` at full flow.
    pub(crate) async fn keep(&mut self, session: &mut Session, prefetch: u16) -> Result<(), Ended> {
        self.changed.mark_unchanged();
        let before = std::mem::replace(&mut self.flow, flow(&self.jobs));
        let is_none = |flow| matches!(flow, Flow::None(_));
        if before == self.flow || (is_none(before) && is_none(self.flow)) {
            return Ok(());
        }
        tracing::info!(queue = self.queue, flow = ?self.flow, "changed the flow of the queue");
        session.pause().await;
        match self.flow {
            Flow::None(_) => Ok(()),
            Flow::One => session.resume(1).await,
            Flow::Full => session.resume(prefetch).await,
        }
    }

    /// Waits until the flow may have changed.
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

/// Returns the flow of a queue: that of its least restricted job. A job has the flow of its most restricted circuit.
fn flow(jobs: &[Vec<Arc<Breaker>>]) -> Flow {
    let now = Instant::now();
    let mut best: Option<Flow> = None;
    for circuits in jobs {
        let flow = circuits.iter().map(|breaker| breaker.flow(now)).reduce(worse).unwrap_or(Flow::Full);
        best = Some(best.map_or(flow, |best| if worse(best, flow) == best { flow } else { best }));
    }
    best.unwrap_or(Flow::Full)
}

fn worse(a: Flow, b: Flow) -> Flow {
    match (a, b) {
        (Flow::None(Some(a)), Flow::None(Some(b))) => Flow::None(Some(a.max(b))),
        // An unknown end is announced by a change.
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
    async fn a_queue_has_the_flow_of_its_least_restricted_job() {
        let (smtp, other) = (breaker(), breaker());
        let (only_smtp, smtp_and_other, none) = ([smtp.clone()], [smtp.clone(), other.clone()], []);
        let both = || flow(&[only_smtp.to_vec(), smtp_and_other.to_vec()]);
        assert_eq!(both(), Flow::Full);
        fail(&other, 3);
        assert_eq!(both(), Flow::Full, "one of them can run");
        fail(&smtp, 3);
        assert_eq!(both(), Flow::None(Some(Instant::now() + 10 * SECOND)));
        assert_eq!(flow(&[only_smtp.to_vec(), none.to_vec()]), Flow::Full);
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(both(), Flow::One);
        smtp.admit(0.0);
        assert_eq!(flow(&[only_smtp.to_vec()]), Flow::None(None));
    }
}
