//! An unacknowledged job, from its handler to a safe outcome: the body of one task.

use std::{
    fmt::{self, Display},
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt;
use prometheus::IntGauge;
use tokio::{
    sync::{OwnedSemaphorePermit, SetOnce},
    time::Instant,
};
use tracing::Instrument;

use crate::{
    attempt::{
        admission::Incoming,
        context::{self, Context},
        disposition::{Disposition, LogLine, Settlement, Update},
        handler::panic_of,
        reply,
        run::{self as attempt, Route},
        runtime::QueueRuntime,
        settle, step,
        tracked::Tracked,
        verdict::Facts,
    },
    limits::{
        keyed::KeyedPermit,
        limiter::{Admitted, Deferral, Limiter},
    },
    message::{republish::ERROR_TEXT_LIMIT, truncated},
    observe::metrics::JobMetrics,
    outcome::{ErrorKind, Finish, Outcome},
    time::at_unix_ms,
    topology::{
        delay::{self, UNIT},
        lane::Lane,
    },
    trace::{self, TraceSpan},
    tracking::status_update::{StatusUpdate, Transition},
};

/// The work of a task.
pub(crate) enum Work {
    /// Run the handler of this index, then settle.
    Run(usize, OwnedSemaphorePermit),
    /// Only settle.
    Settle(Disposition),
    /// Reject a request, or a step of a workflow, of which no copy could be made. Its end is reported first.
    Reject(Disposition),
}

/// The permission and the slots of an attempt at a job with limits.
#[derive(Default)]
struct Besides {
    pass: Option<Admitted>,
    permits: Vec<KeyedPermit>,
}

pub(crate) struct Task<S> {
    pub(crate) handlers: Arc<QueueRuntime<S>>,
    pub(crate) received: Arc<Incoming>,
    pub(crate) lane: Lane,
    pub(crate) in_progress: IntGauge,
}

impl<S: Send + Sync + 'static> Task<S> {
    /// Returns once the outcome is safe and the original may be settled.
    pub(crate) async fn run(self, work: Work) -> Settlement {
        let QueueRuntime { queue, broker, .. } = &*self.handlers;
        let is_step = self.received.step.is_some();
        let tracked = (self.received.envelope.track || is_step).then(|| Tracked::new(broker, queue, &self.received));
        let (is_rejected, has_run) = (matches!(work, Work::Reject(..)), matches!(work, Work::Run(..)));
        let (mut disposition, metrics) = match work {
            Work::Settle(disposition) => {
                let is_cancelled = match &tracked {
                    None => false,
                    // A job that cannot run, or not yet, may also be cancelled.
                    Some(tracked) => Box::pin(tracked.is_cancelled()).await,
                };
                let disposition = if is_cancelled { Disposition::Cancelled } else { disposition };
                (disposition, self.handlers.metrics(self.handlers.find(self.received.message.job_name())))
            }
            Work::Reject(disposition) => {
                (disposition, self.handlers.metrics(self.handlers.find(self.received.message.job_name())))
            }
            Work::Run(index, permit) => {
                let route = &self.handlers.routes[index];
                // Boxed, so that the tasks of other jobs, which are the majority, stay small.
                let disposition = match (&tracked, &route.limiter) {
                    (None, None) => self.attempt(route, permit, Besides::default(), None).await,
                    (Some(tracked), None) => {
                        Box::pin(self.attempt_tracked(route, permit, tracked, Besides::default())).await
                    }
                    (tracked, Some(limiter)) => Box::pin(self.attempt_limited(route, permit, tracked, limiter)).await,
                };
                (disposition, &*route.metrics)
            }
        };
        let from = self.consumed_lane();
        let (is_request, anywhere) = (self.received.reply.is_some(), self.handlers.replies_anywhere);
        if is_request && let Some(until) = self.received.waited_until(&broker.config().namespace, anywhere) {
            // As for every expiry, both clocks must agree.
            disposition = disposition.of_request(until, broker.now().earliest);
        }
        if queue.is_each_process() && !matches!(disposition, Disposition::Outcome(Outcome::Done)) {
            disposition = disposition.without_ladder();
        }
        let span = TraceSpan::settle(from, self.received.delivered());
        let mut settlement = if matches!(disposition, Disposition::Outcome(Outcome::Done)) {
            Settlement::Ack
        } else {
            // Boxed, so that the tasks of jobs without a copy, which are the majority, stay small.
            Box::pin(self.make_safe(&disposition, is_rejected, &span)).await
        };
        if tracked.is_some() || is_request {
            settlement = Box::pin(self.report(tracked.as_deref(), (&disposition, has_run), settlement, &span)).await;
        }
        let finish = disposition.row().finish;
        span.settled(from, settlement.as_str(), finish);
        match settlement {
            Settlement::Ack => self.count(finish, metrics),
            Settlement::Reject => {
                metrics.error(if is_rejected { disposition.error().0 } else { ErrorKind::TooLarge });
                metrics.finished(Finish::Dead);
            }
            Settlement::Requeue => {}
        }
        settlement
    }

    /// Publishes what the job's tracker, workflow and caller get to know. The job is requeued unless the first two are
    /// confirmed.
    async fn report(
        &self,
        tracked: Option<&Tracked>,
        (disposition, has_run): (&Disposition, bool),
        mut settlement: Settlement,
        span: &TraceSpan,
    ) -> Settlement {
        let QueueRuntime { queue, broker, replies_anywhere, .. } = &*self.handlers;
        if let Some(tracked) = tracked.filter(|_| self.received.envelope.track) {
            settlement = span.within(self.report_status(tracked, disposition, settlement)).await;
        }
        if self.received.step.is_some() {
            let reported = step::report(disposition, settlement, &self.received, has_run, (queue, broker));
            settlement = span.within(reported).await;
        }
        if self.received.reply.is_some() {
            reply::reply(disposition, settlement, &self.received, (broker, *replies_anywhere)).await;
        }
        settlement
    }

    /// Publishes the copy of a job that did not succeed, and returns once the broker has confirmed it.
    async fn make_safe(&self, disposition: &Disposition, is_rejected: bool, span: &TraceSpan) -> Settlement {
        let QueueRuntime { queue, broker, .. } = &*self.handlers;
        log(disposition, &self.received, queue.name());
        if is_rejected {
            return Settlement::Reject;
        }
        span.within(settle::carry_out(disposition, &self.received, (queue, self.lane), broker)).await
    }

    /// Runs one attempt at a job with limits, if they admit it.
    async fn attempt_limited(
        &self,
        route: &Route<S>,
        permit: OwnedSemaphorePermit,
        tracked: &Option<Arc<Tracked>>,
        limiter: &Arc<Limiter>,
    ) -> Disposition {
        let entering = limiter.enter(
            &self.received.message,
            self.received.envelope.not_before.is_some(),
            self.handlers.broker.now_ms(),
        );
        let mut pass = match AssertUnwindSafe(entering).catch_unwind().await {
            Ok(Ok(pass)) => pass,
            Ok(Err(Deferral { delay, slot })) => {
                return Disposition::Deferred { delay: delay::Wait::exact(delay.max(UNIT)), slot };
            }
            // The key of a limit and a store of limits are the user's code.
            Err(panic) => {
                let result = Err(panic_of("the key or the store of its limit", &*panic));
                let draws = attempt::draws(&result);
                let attempt = self.received.envelope.attempt;
                let snooze_limit = route.snooze_limit;
                let facts = Facts { attempt, overdue: None, snooze_limit, policy: &route.retry, draws };
                route.metrics.error(ErrorKind::Panic);
                return Disposition::Outcome(attempt::verdict(result, facts));
            }
        };
        let besides = Besides { permits: std::mem::take(&mut pass.permits), pass: Some(pass) };
        match tracked {
            None => self.attempt(route, permit, besides, None).await,
            Some(tracked) => self.attempt_tracked(route, permit, tracked, besides).await,
        }
    }

    /// Runs one attempt at a tracked job, unless it is cancelled.
    async fn attempt_tracked(
        &self,
        route: &Route<S>,
        permit: OwnedSemaphorePermit,
        tracked: &Arc<Tracked>,
        besides: Besides,
    ) -> Disposition {
        tracked.report(Transition::Received);
        if tracked.is_cancelled().await && !tracked.may_have_succeeded() {
            return Disposition::Cancelled;
        }
        tracked.report(Transition::Started);
        let disposition = self.attempt(route, permit, besides, Some(Arc::clone(tracked))).await;
        let is_done = matches!(disposition.row().update, Update::Succeeded | Update::Duplicate);
        if !is_done && tracked.cancelled().initialized() { Disposition::Cancelled } else { disposition }
    }

    /// Publishes the status update of a tracked job. If it is the last one, returns once the broker has confirmed it.
    async fn report_status(&self, tracked: &Tracked, disposition: &Disposition, settlement: Settlement) -> Settlement {
        let QueueRuntime { queue, broker, .. } = &*self.handlers;
        let now = at_unix_ms(broker.now_ms());
        let dead = |(kind, reason): (ErrorKind, &str)| Transition::Dead {
            kind: kind.to_string(),
            error: truncated(reason, ERROR_TEXT_LIMIT).to_owned(),
        };
        let without_copy = || {
            let (kind, reason) = disposition.without_copy("no copy of it could be made");
            dead((kind, &reason))
        };
        let step = match disposition.row().update {
            _ if settlement == Settlement::Requeue => return settlement,
            _ if settlement == Settlement::Reject => without_copy(),
            Update::None => return settlement,
            Update::Cancelled => Transition::Cancelled,
            Update::Snoozed => Transition::Snoozed { due: now + disposition.delay() },
            Update::Succeeded => tracked.succeeded(),
            Update::Duplicate => Transition::Duplicate,
            Update::Dead => dead(disposition.error()),
            Update::Retrying => {
                let (kind, reason) = disposition.error();
                let error = truncated(reason, ERROR_TEXT_LIMIT).to_owned();
                Transition::Retrying { kind: kind.to_string(), error, due: now + disposition.delay() }
            }
        };
        if !step.is_terminal() {
            tracked.report(step);
            return settlement;
        }
        let update = StatusUpdate::of(&self.received, queue, now, step);
        match settle::report_end(update, &self.received, queue, broker).await {
            Settlement::Ack => settlement,
            unconfirmed => unconfirmed,
        }
    }

    async fn attempt(
        &self,
        route: &Route<S>,
        permit: OwnedSemaphorePermit,
        besides: Besides,
        tracked: Option<Arc<Tracked>>,
    ) -> Disposition {
        if let Some(waited) = self.received.waited() {
            route.metrics.wait.observe(waited);
        }
        let overdue = self.received.due().map(|due| Duration::from_millis(self.received.at_ms.saturating_sub(due)));
        let process = TraceSpan::process(self.consumed_lane(), route.job, self.received.delivered());
        let span = tracing::info_span!(
            "job",
            job = %route.job,
            queue = %self.handlers.queue.name(),
            job_id = %Shown(self.received.id()),
            attempt = self.received.envelope.attempt,
            trace_id = self.received.trace.id(),
        );
        let ctx = Context::new(context::Inner {
            job_id: OnceLock::new(),
            handlers: Arc::clone(&self.handlers),
            received: Arc::clone(&self.received),
            lane: self.lane,
            max_attempts: route.retry.attempts(),
            deadline: Instant::now() + route.timeout,
            overran: SetOnce::new(),
            tracked,
            permit: Some(permit),
            permits: besides.permits,
            circuits: besides.pass.as_ref().map(|pass| Arc::clone(&pass.circuits)),
        });
        let _running = Counted::new(self.in_progress.clone());
        let attempt =
            attempt::run(route, Arc::clone(&self.handlers.chain), ctx, overdue, besides.pass).instrument(span);
        let disposition = Disposition::Outcome(process.within(attempt).await);
        process.attempted(disposition.row().finish, disposition.failure());
        disposition
    }

    fn consumed_lane(&self) -> trace::ConsumedLane<'_> {
        let QueueRuntime { broker, queue, .. } = &*self.handlers;
        trace::ConsumedLane { broker, queue, lane: self.lane }
    }

    fn count(&self, finish: Option<Finish>, metrics: &JobMetrics) {
        let Some(finish) = finish else { return };
        metrics.finished(finish);
        if matches!(finish, Finish::Succeeded | Finish::Dead) {
            metrics.ended(self.received.envelope.attempt, self.received.age(self.handlers.broker.now_ms()));
        }
    }
}

/// Logs every outcome but success, once.
fn log(disposition: &Disposition, received: &Incoming, queue: &str) {
    let (job, job_id) = (received.message.job_name(), received.id());
    let (attempt, trace_id) = (received.envelope.attempt, received.trace.id());
    match disposition.row().line {
        LogLine::None => {}
        LogLine::MovedToSuspectQueue => {
            tracing::warn!(
                job,
                queue,
                job_id,
                "delivered too often without an outcome, moving the job to the suspect queue"
            );
        }
        LogLine::Cancelled => tracing::info!(job, queue, job_id, attempt, trace_id, "job cancelled"),
        line => log_failure(line, disposition, received, queue),
    }
}

fn log_failure(line: LogLine, disposition: &Disposition, received: &Incoming, queue: &str) {
    let (job, job_id) = (received.message.job_name(), received.id());
    let (attempt, trace_id) = (received.envelope.attempt, received.trace.id());
    let (kind, error) = disposition.error();
    match line {
        LogLine::None | LogLine::MovedToSuspectQueue | LogLine::Cancelled => {}
        LogLine::AttemptFailed => {
            let delay_ms = disposition.delay().as_millis();
            tracing::warn!(job, queue, job_id, attempt, trace_id, %kind, error, delay_ms, "attempt failed, retrying");
        }
        LogLine::DeadLettered => {
            tracing::error!(job, queue, job_id, attempt, trace_id, %kind, error, "job dead-lettered");
        }
        LogLine::Dropped => {
            tracing::error!(job, queue, job_id, trace_id, %kind, error, "event dropped: each process has one attempt at it");
        }
    }
}

/// Shows a publisher's text as it is, or quoted and escaped if it is ambiguous in a log.
struct Shown<'a>(&'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.bytes().all(|byte| byte.is_ascii_graphic()) { f.write_str(self.0) } else { write!(f, "{:?}", self.0) }
    }
}

/// Counts one attempt as running until this is dropped.
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
