//! What a worker is when it runs: for each queue its handlers, and what they need.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU32},
};

use crate::worker::builder::{HandlerSpec, LimitDeps};
use crate::{
    attempt::{
        middleware::Chain,
        run::{Route, UNKNOWN_FIRST_POLL_NANOS, nanos},
    },
    broker::Broker,
    error::Error,
    job::is_valid_name,
    limits::circuit_breaker::Breakers,
    message::millis,
    observe::metrics::JobMetrics,
    publish::publisher::Publisher,
    shutdown::Stop,
    tracking::catalogue::Entry,
    worker::queue::Queue,
};

/// What the consumers of one queue need to run its jobs.
pub(crate) struct QueueRuntime<S> {
    pub(crate) broker: Broker,
    pub(crate) publisher: Publisher,
    pub(crate) stop: Stop,
    pub(crate) queue: Queue,
    pub(crate) state: Arc<S>,
    pub(crate) chain: Arc<Chain<S>>,
    pub(crate) dependencies: Arc<Breakers>,
    pub(crate) routes: Vec<Route<S>>,
    pub(super) by_name: ByName,
    pub(super) unknown: JobMetrics,
}

pub(super) type ByName = HashMap<&'static str, usize, foldhash::fast::RandomState>;

/// The handlers of one queue, and where to find them.
pub(super) fn routes<S>(
    broker: &Broker,
    queue: &Queue,
    registered: Vec<HandlerSpec<S>>,
    outside: &LimitDeps,
) -> Result<(Vec<Route<S>>, ByName), Error> {
    let (mut routes, mut by_name) = (Vec::new(), ByName::default());
    let is_alone = registered.len() == 1;
    if queue.takes_any_type() && registered.len() > 1 {
        let reason =
            format!("queue {:?} has {} handlers, and any_type needs a single one", queue.name(), registered.len());
        return Err(Error::Setting { setting: "Queue::any_type", reason });
    }
    for mut registered in registered {
        let limiter = registered.limiter(broker, queue, outside, is_alone)?;
        let HandlerSpec { job, aliases, schema, handler, retry, timeout, .. } = registered;
        let timeout = timeout.unwrap_or_else(|| queue.attempt_timeout());
        broker.config().check_timeout(&format!("the timeout of {job}"), timeout)?;
        if !is_valid_name(job) {
            return Err(Error::JobName { job });
        }
        for name in [job].into_iter().chain(aliases) {
            if by_name.insert(name, routes.len()).is_some() {
                return Err(Error::DuplicateHandler { job: name, queue: queue.name().to_owned() });
            }
        }
        let retry = retry.unwrap_or_else(|| queue.retry_policy().clone());
        let metrics = Arc::new(broker.metrics().job(queue.name(), job));
        let inline_budget = nanos(broker.config().inline_budget);
        let first_poll = AtomicU32::new(UNKNOWN_FIRST_POLL_NANOS);
        let dependencies = Arc::clone(&outside.dependencies);
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
    Ok((routes, by_name))
}

impl<S> QueueRuntime<S> {
    /// The index of the handler of a job name or alias; a message without one is for the queue's only handler, which
    /// may take any.
    pub(crate) fn find(&self, job: Option<&str>) -> Option<usize> {
        let only = || Some(0).filter(|_| self.routes.len() == 1);
        match job {
            Some(job) => self.by_name.get(job).copied().or_else(|| only().filter(|_| self.queue.takes_any_type())),
            None => only(),
        }
    }

    pub(crate) fn metrics(&self, index: Option<usize>) -> &JobMetrics {
        index.map_or(&self.unknown, |index| &self.routes[index].metrics)
    }

    /// What this queue's handlers can run, for the catalogue.
    pub(super) fn entries(&self, announced_at: u64) -> impl Iterator<Item = Entry> {
        self.routes.iter().map(move |route| Entry {
            job: route.job.to_owned(),
            queue: self.queue.name().to_owned(),
            lanes: self.queue.weights().is_some(),
            single_active: self.queue.is_single_active(),
            existing: self.queue.is_existing(),
            schema: (route.schema)(),
            timeout_ms: millis(route.timeout),
            max_attempts: route.retry.attempts(),
            announced_at,
        })
    }

    /// Why there is no handler for a job name.
    pub(crate) fn unknown(&self, job: Option<&str>) -> String {
        let mut known: Vec<_> = self.by_name.keys().copied().collect();
        known.sort_unstable();
        let (queue, known) = (self.queue.name(), known.join(", "));
        match job {
            Some(job) => format!("queue {queue:?} has no handler for job {job:?}; it has: {known}"),
            None => format!(
                "the message names no job (header leveret-job or property type), and queue {queue:?} has several: {known}"
            ),
        }
    }
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
        let worker = || Worker::new(()).handle(nap).alias(FOREIGN).alias("NAP").handle(other);
        for name in ["nap", FOREIGN, "NAP", "other"] {
            assert_eq!(run(worker(), name).await.unwrap(), Outcome::Done, "{name}");
        }
        assert!(matches!(run(worker(), "Nap").await, Err(Error::NoHandler { .. })));
        let twice = Worker::new(()).handle(nap).alias("other").handle(other);
        assert!(matches!(run(twice, "nap").await, Err(Error::DuplicateHandler { job: "other", .. })));
        let empty = run(Worker::new(()).handle(nap).alias(""), "nap").await.unwrap_err().to_string();
        assert!(empty.contains("Worker::alias") && empty.contains("1 to 255"), "{empty}");
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
