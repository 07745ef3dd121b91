//! One attempt at a job: middleware and handler, with a timeout and a panic guard. Independent of brokers.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, poll};

use crate::{
    attempt::{
        context::Context,
        handler::{Erased, panic_of, panicked},
        middleware::{Chain, Next},
        retry_policy::RetryPolicy,
        verdict::{Facts, decide},
    },
    backoff,
    error::{Class, JobError, JobResult},
    limits::{
        circuit_breaker::{Breaker, Breakers},
        limiter::{Admitted, Limiter},
    },
    observe::metrics::JobMetrics,
    outcome::{ErrorKind, Outcome},
};

/// Initial average of first polls: a handler needs about fifty quick ones before it starts inline.
pub(crate) const UNKNOWN_FIRST_POLL_NANOS: u32 = 1_000_000;

/// A registered handler with its settings.
pub(crate) struct Route<S> {
    pub(crate) job: &'static str,
    /// Returns the JSON Schema of its payload, on demand.
    pub(crate) schema: fn() -> Option<serde_json::Value>,
    pub(crate) handler: Erased<S>,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Duration,
    /// The time since it became due for which a job may snooze.
    pub(crate) snooze_limit: Duration,
    pub(crate) metrics: Arc<JobMetrics>,
    /// The limits and circuits of its jobs; most jobs have none.
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) dependencies: Arc<Breakers>,
    /// The average first poll, in nanoseconds, below which its consumer's own task starts it.
    pub(crate) inline_budget: u32,
    /// The moving average of its first polls, in nanoseconds.
    pub(crate) first_poll: AtomicU32,
}

impl<S> Route<S> {
    /// Returns the circuits that must be closed for its jobs to run.
    pub(crate) fn needs(&self) -> &[Arc<Breaker>] {
        self.limiter.as_ref().map_or(&[], |limiter| &limiter.needs)
    }

    /// Returns whether the consumer's own task may poll attempts of this job once, before they get a task of their own.
    pub(crate) fn may_start_inline(&self) -> bool {
        self.first_poll.load(Ordering::Relaxed) < self.inline_budget
    }

    /// Records a first poll. A slow one counts at once; many quick ones are needed to outweigh it.
    fn observe_first_poll(&self, took: Duration) {
        let nanos = nanos(took);
        let average = self.first_poll.load(Ordering::Relaxed);
        let next = if nanos > average { average / 2 + nanos / 2 } else { average - (average - nanos) / 16 };
        self.first_poll.store(next, Ordering::Relaxed);
    }
}

/// Returns the duration in nanoseconds, at most `u32::MAX`.
pub(crate) fn nanos(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}

/// Runs one attempt and returns the verdict.
pub(crate) async fn run<S: Send + Sync + 'static>(
    route: &Route<S>,
    chain: Arc<Chain<S>>,
    ctx: Context<S>,
    overdue: Option<Duration>,
    pass: Option<Admitted>,
) -> Outcome {
    let attempt = ctx.attempt();
    let mut bounded = pin!(bounded(route, chain, ctx));
    let started = Instant::now();
    let first = poll!(bounded.as_mut());
    let polled = started.elapsed();
    route.observe_first_poll(polled);
    let (result, took) = match first {
        Poll::Ready(result) => (result, polled),
        Poll::Pending => (bounded.await, started.elapsed()),
    };
    route.metrics.duration.observe(took.as_secs_f64());
    if let Some(pass) = pass {
        pass.ended(&result);
    }
    route.dependencies.blame(&result, route.needs());
    let draws = draws(&result);
    let facts = Facts { attempt, overdue, snooze_limit: route.snooze_limit, policy: &route.retry, draws };
    let outcome = verdict(result, facts);
    if let Outcome::Retry { kind, .. } | Outcome::DeadLetter { kind, .. } = &outcome {
        route.metrics.error(*kind);
    }
    outcome
}

/// Decides, also if the user's code panics in the course of it: a retry policy, or the text of an error.
pub(crate) fn verdict(result: JobResult, facts: Facts<'_>) -> Outcome {
    std::panic::catch_unwind(AssertUnwindSafe(|| decide(result, facts))).unwrap_or_else(|panic| {
        let reason = panic_of("after the handler had failed, its retry policy or its error", &*panic).chain();
        Outcome::DeadLetter { kind: ErrorKind::Panic, reason }
    })
}

/// Draws random numbers, which only a failure needs.
pub(crate) fn draws(result: &JobResult) -> (f64, f64) {
    if result.is_ok() { (0.0, 0.0) } else { backoff::draws() }
}

async fn bounded<S: Send + Sync + 'static>(route: &Route<S>, chain: Arc<Chain<S>>, ctx: Context<S>) -> JobResult {
    let (deadline, watched) = (ctx.deadline(), ctx.canceller());
    let next = Next::new(chain, Arc::clone(&route.handler));
    let attempt = AssertUnwindSafe(async { next.start(ctx).await }).catch_unwind();
    match tokio::time::timeout_at(deadline, attempt).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(panicked(&*panic)),
        Err(_) => {
            watched.cancel();
            Err(JobError::new(Class::Timeout, format!("the handler overran its timeout of {:?}", route.timeout)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    fn route() -> Route<()> {
        let metrics = Metrics::new().unwrap();
        Route {
            job: "j",
            schema: || None,
            handler: Arc::new(|_| Box::pin(async { Ok(()) })),
            retry: RetryPolicy::default(),
            timeout: Duration::from_secs(1),
            snooze_limit: Duration::from_secs(1),
            metrics: Arc::new(metrics.job("q", "j")),
            limiter: None,
            dependencies: Arc::new(Breakers::new(Vec::new(), std::iter::empty(), &metrics)),
            inline_budget: 50_000,
            first_poll: AtomicU32::new(UNKNOWN_FIRST_POLL_NANOS),
        }
    }

    #[test]
    fn a_policy_that_panics_makes_a_dead_letter() {
        let policy = RetryPolicy::custom(|_| panic!("no such attempt"));
        let (snooze_limit, draws) = (Duration::from_secs(1), (0.0, 0.0));
        let facts = Facts { attempt: 1, overdue: None, snooze_limit, policy: &policy, draws };
        let Outcome::DeadLetter { kind: ErrorKind::Panic, reason } = verdict(Err("down".into()), facts) else {
            panic!("it is dead-lettered");
        };
        assert!(reason.contains("retry policy") && reason.contains("no such attempt"), "{reason}");
    }

    #[test]
    fn a_handler_that_computes_gets_a_task_until_it_is_quick_again() {
        let route = route();
        assert!(!route.may_start_inline(), "a handler that is not known may block");
        (0..60).for_each(|_| route.observe_first_poll(Duration::from_micros(2)));
        assert!(route.may_start_inline());
        route.observe_first_poll(Duration::from_millis(5));
        assert!(!route.may_start_inline());
        (0..200).for_each(|_| route.observe_first_poll(Duration::from_micros(2)));
        assert!(route.may_start_inline());
    }
}
