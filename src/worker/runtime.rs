//! The parts of a running worker: for each queue its handlers and their dependencies.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicU32},
};

use crate::{
    attempt::{
        run::{Route, UNKNOWN_FIRST_POLL_NANOS, nanos},
        runtime::{ByName, QueueRuntime},
    },
    broker::Broker,
    error::Error,
    job::is_valid_name,
    topology::topic::{Pattern, Patterns},
    worker::{
        queue::Queue,
        spec::{HandlerSpec, LimitDeps},
    },
};

/// A queue with its handlers and its consumption settings.
pub(crate) struct BoundQueue<S> {
    pub(crate) runtime: Arc<QueueRuntime<S>>,
    pub(crate) queue: Queue,
}

/// The handlers of one queue, and their indices.
pub(super) struct Routes<S> {
    pub(super) routes: Vec<Route<S>>,
    pub(super) by_name: ByName,
    pub(super) patterns: Patterns,
}

/// Returns the handlers of one queue.
pub(super) fn routes<S>(
    broker: &Broker,
    queue: &Queue,
    handlers: Vec<HandlerSpec<S>>,
    limits: &LimitDeps,
) -> Result<Routes<S>, Error> {
    let (mut routes, mut by_name) = (Vec::new(), ByName::default());
    let is_alone = handlers.len() == 1;
    if queue.takes_any_type() && handlers.len() > 1 {
        let reason =
            format!("queue {:?} has {} handlers, but any_type requires exactly one", queue.name(), handlers.len());
        return Err(Error::Setting { setting: "Queue::any_type", reason });
    }
    let mut patterns = Vec::new();
    for mut spec in handlers {
        let limiter = spec.limiter(broker, queue, limits, is_alone)?;
        let HandlerSpec { job, aliases, event, schema, handler, retry, timeout, batch, .. } = spec;
        let timeout = timeout.unwrap_or_else(|| queue.attempt_timeout());
        let retry = retry.unwrap_or_else(|| queue.retry_policy().clone());
        let timeout = match &batch {
            None => timeout,
            Some(setup) => setup.start(queue.concurrency_limit(), timeout, broker.metrics().batches(queue.name(), job)),
        };
        let part = if batch.is_some() { "twice the timeout and the wait for a batch of" } else { "the timeout of" };
        broker.config().check_timeout(&format!("{part} {job}"), timeout)?;
        if !event && !is_valid_name(job) {
            return Err(Error::JobName { job });
        }
        for name in [job].into_iter().chain(aliases) {
            if event && !Pattern::is_topic(name) {
                patterns.push((name, routes.len()));
                continue;
            }
            if by_name.insert(name, routes.len()).is_some() {
                return Err(Error::DuplicateHandler { job: name, queue: queue.name().to_owned() });
            }
        }
        let metrics = Arc::new(broker.metrics().job(queue.name(), job));
        let inline_budget = nanos(broker.config().inline_budget);
        let first_poll = AtomicU32::new(UNKNOWN_FIRST_POLL_NANOS);
        let dependencies = Arc::clone(&limits.breakers);
        routes.push(Route {
            job,
            schema,
            handler,
            retry,
            timeout,
            snooze_limit: queue.snooze_bound(),
            metrics,
            limiter,
            dependencies,
            inline_budget,
            first_poll,
        });
    }
    if routes.is_empty() {
        return Err(Error::NoHandler { queue: queue.name().to_owned() });
    }
    let patterns = Patterns::new(&patterns).map_err(|tied| equally_specific(queue, tied))?;
    Ok(Routes { routes, by_name, patterns })
}

fn equally_specific(queue: &Queue, (one, other): (&str, &str)) -> Error {
    let reason = format!(
        "subscription {:?} has handlers of {one:?} and {other:?}: some topics match both, and none of the two is more \
         specific; change one of the patterns",
        queue.name()
    );
    Error::Setting { setting: "Worker::subscribe", reason }
}

/// Checks a queue, and that its name is not taken.
pub(super) fn check(queue: &Queue, names: &mut HashSet<String>) -> Result<(), Error> {
    queue.check()?;
    let declaration = queue.declaration();
    if declaration.is_existing() {
        tracing::warn!(
            queue = queue.name(),
            "uses an existing queue with its own arguments: unless they are Leveret's, messages that the broker drops \
             itself (delivery limit, expiry, too large) do not become dead letters, and a classic queue is a single copy"
        );
    }
    for lane in declaration.by_priority() {
        if !names.insert(lane.queue_name(declaration)) {
            let name = lane.queue_name(declaration);
            let reason = format!("queue {name:?} is set twice, or is a lane of another");
            return Err(Error::Setting { setting: "Worker::queue", reason });
        }
    }
    Ok(())
}

/// Refuses a subscription whose name is that of a job queue: its handlers would get the jobs.
pub(super) fn check_subscriptions<S>(queues: &[Queue], handlers: &[HandlerSpec<S>]) -> Result<(), Error> {
    for name in queues.iter().filter(|queue| queue.declaration().is_subscription()).map(Queue::name) {
        let is_queue = queues.iter().any(|queue| queue.name() == name && !queue.declaration().is_subscription());
        if is_queue || handlers.iter().any(|handler| handler.queue == name && !handler.event) {
            let reason = format!(
                "subscription {name:?} has the name of a job queue of this worker: give one of them another name"
            );
            return Err(Error::Setting { setting: "Worker::subscribe", reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use crate::{Context, Error, Job, JobResult, Outcome, Queue, Worker, testing::perform_raw};

    #[derive(Serialize, Deserialize)]
    struct Nap;

    impl Job for Nap {
        const NAME: &'static str = "nap";
        const QUEUE: &'static str = "naps";
    }

    #[derive(Serialize, Deserialize)]
    struct Other;

    impl Job for Other {
        const NAME: &'static str = "other";
        const QUEUE: &'static str = "naps";
    }

    async fn nap(_: Nap, _: Context<()>) -> JobResult {
        Ok(())
    }

    async fn other(_: Other, _: Context<()>) -> JobResult {
        Ok(())
    }

    const FOREIGN: &str = "Acme.Contracts.Nap, Acme.Contracts";

    async fn run(worker: Worker<()>, job: &str) -> Result<Outcome, Error> {
        perform_raw(worker, "naps", job, b"null", 1).await
    }

    #[tokio::test]
    async fn a_job_is_found_under_its_aliases_and_no_other_foreign_name() {
        let worker = || Worker::new(()).handle_with(nap, |h| h.alias(FOREIGN).alias("NAP")).handle(other);
        for name in ["nap", FOREIGN, "NAP", "other"] {
            assert_eq!(run(worker(), name).await.unwrap(), Outcome::Done, "{name}");
        }
        assert!(matches!(run(worker(), "Nap").await, Err(Error::NoHandler { .. })));
        let twice = Worker::new(()).handle_with(nap, |h| h.alias("other")).handle(other);
        assert!(matches!(run(twice, "nap").await, Err(Error::DuplicateHandler { job: "other", .. })));
        let empty = run(Worker::new(()).handle_with(nap, |h| h.alias("")), "nap").await.unwrap_err().to_string();
        assert!(empty.contains("HandlerOptions::alias") && empty.contains("1 to 255"), "{empty}");
    }

    #[tokio::test]
    async fn the_only_handler_takes_any_type_where_its_queue_says_so() {
        let only = |queue| Worker::new(()).queue(queue).handle(nap);
        assert_eq!(run(only(Queue::new("naps").any_type()), FOREIGN).await.unwrap(), Outcome::Done);
        assert!(matches!(run(only(Queue::new("naps")), FOREIGN).await, Err(Error::NoHandler { .. })));
        let two = only(Queue::new("naps").any_type()).handle(other);
        let error = run(two, "nap").await.unwrap_err().to_string();
        assert!(error.contains("Queue::any_type") && error.contains("2 handlers"), "{error}");
    }
}
