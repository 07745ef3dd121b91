//! A job in hand, from its handler to a safe outcome: the body of one task.

use std::{
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use prometheus::IntGauge;
use tokio::{
    sync::{OwnedSemaphorePermit, SetOnce},
    time::Instant,
};
use tracing::Instrument;

use crate::{
    attempt::{self, Route},
    context::{self, Context},
    intake::Received,
    metrics::{Finish, JobMetrics},
    outcome::{ErrorKind, Outcome},
    settle::{self, Disposition, Settlement},
    worker::Handlers,
};

/// What a task has to do.
pub(crate) enum Work {
    /// Run the handler of this index, then settle.
    Run(usize, OwnedSemaphorePermit),
    /// Only settle.
    Settle(Disposition),
}

pub(crate) struct Task<S> {
    pub(crate) handlers: Arc<Handlers<S>>,
    pub(crate) received: Arc<Received>,
    pub(crate) in_progress: IntGauge,
}

impl<S: Send + Sync + 'static> Task<S> {
    /// Returns once the outcome is safe and the original may be settled.
    pub(crate) async fn run(self, work: Work) -> Settlement {
        let (disposition, metrics) = match work {
            Work::Settle(disposition) => {
                (disposition, self.handlers.metrics(self.handlers.find(self.received.message.job_name())))
            }
            Work::Run(index, permit) => {
                let route = &self.handlers.routes[index];
                (Disposition::Outcome(self.attempt(route, permit).await), &*route.metrics)
            }
        };
        let settlement = if matches!(disposition, Disposition::Outcome(Outcome::Done)) {
            Settlement::Ack
        } else {
            log(&disposition, &self.received, self.handlers.queue.name());
            let Handlers { queue, broker, .. } = &*self.handlers;
            // Boxed, so that the many that need no copy do not carry its room about.
            Box::pin(settle::carry_out(&disposition, &self.received, queue, broker)).await
        };
        match settlement {
            Settlement::Ack => self.count(&disposition, metrics),
            Settlement::Reject => {
                metrics.error(ErrorKind::TooLarge);
                metrics.finished(Finish::Dead);
            }
            Settlement::Requeue => {}
        }
        settlement
    }

    async fn attempt(&self, route: &Route<S>, permit: OwnedSemaphorePermit) -> Outcome {
        if let Some(waited) = self.received.waited() {
            route.metrics.wait.observe(waited);
        }
        let age = self.received.age(self.received.at_ms).map(Duration::from_secs_f64);
        let span = tracing::info_span!(
            "job",
            job = %route.job,
            queue = %self.handlers.queue.name(),
            job_id = %Shown(self.received.id()),
            attempt = self.received.envelope.attempt,
        );
        let ctx = Context::new(context::Inner {
            handlers: Arc::clone(&self.handlers),
            received: Arc::clone(&self.received),
            max_attempts: route.retry.attempts(),
            deadline: Instant::now() + route.timeout,
            overran: SetOnce::new(),
            permit: Some(permit),
        });
        let _running = Counted::new(self.in_progress.clone());
        attempt::run(route, Arc::clone(&self.handlers.chain), ctx, age).instrument(span).await
    }

    fn count(&self, disposition: &Disposition, metrics: &JobMetrics) {
        let finish = match disposition {
            Disposition::Outcome(Outcome::Done) => Finish::Succeeded,
            Disposition::Outcome(Outcome::Retry { .. }) => Finish::Retried,
            Disposition::Outcome(Outcome::Snooze { .. }) | Disposition::TooEarly(_) => Finish::Snoozed,
            Disposition::Outcome(Outcome::DeadLetter { kind: ErrorKind::Expired, .. }) => Finish::Expired,
            Disposition::Outcome(Outcome::DeadLetter { .. }) => Finish::Dead,
            Disposition::Suspect => return,
        };
        metrics.finished(finish);
        if matches!(finish, Finish::Succeeded | Finish::Dead) {
            metrics.ended(self.received.envelope.attempt, self.received.age(self.handlers.broker.now_ms()));
        }
    }
}

/// Says once, where it is decided, what did not go well.
fn log(disposition: &Disposition, received: &Received, queue: &str) {
    let (job, job_id) = (received.message.job_name(), received.id());
    let attempt = received.envelope.attempt;
    match disposition {
        Disposition::Outcome(Outcome::Retry { delay, kind, reason }) => {
            tracing::warn!(job, queue, job_id, attempt, %kind, error = reason, delay_ms = delay.as_millis(), "attempt failed, trying again");
        }
        Disposition::Outcome(Outcome::DeadLetter { kind, reason }) => {
            tracing::error!(job, queue, job_id, attempt, %kind, error = reason, "job given up, kept as a dead letter");
        }
        Disposition::Suspect => {
            tracing::warn!(job, queue, job_id, "came back without an outcome too often, moving it to the suspect lane");
        }
        Disposition::Outcome(Outcome::Done | Outcome::Snooze { .. }) | Disposition::TooEarly(_) => {}
    }
}

/// A publisher's text as it is, or quoted and escaped if it could be taken for anything else in a log.
struct Shown<'a>(&'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.bytes().all(|byte| byte.is_ascii_graphic()) { f.write_str(self.0) } else { write!(f, "{:?}", self.0) }
    }
}

/// Counts one attempt as running until it is dropped.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
