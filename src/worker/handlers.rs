//! What a worker is when it runs: for each queue its handlers, and what they need.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU32},
};

use super::{Outside, Registered};
use crate::{
    attempt::{Route, UNKNOWN_FIRST_POLL_NANOS, nanos},
    breaker::Dependencies,
    broker::Broker,
    catalogue::Entry,
    consumer::Stop,
    error::Error,
    job::is_valid_name,
    message::millis,
    metrics::JobMetrics,
    middleware::Chain,
    publisher::Publisher,
    queue::Queue,
};

/// What the consumers of one queue need to run its jobs.
pub(crate) struct Handlers<S> {
    pub(crate) broker: Broker,
    pub(crate) publisher: Publisher,
    pub(crate) stop: Stop,
    pub(crate) queue: Queue,
    pub(crate) state: Arc<S>,
    pub(crate) chain: Arc<Chain<S>>,
    pub(crate) dependencies: Arc<Dependencies>,
    pub(crate) routes: Vec<Route<S>>,
    pub(super) by_name: ByName,
    pub(super) unknown: JobMetrics,
}

pub(super) type ByName = HashMap<&'static str, usize, foldhash::fast::RandomState>;

/// The handlers of one queue, and where to find them.
pub(super) fn routes<S>(
    broker: &Broker,
    queue: &Queue,
    registered: Vec<Registered<S>>,
    outside: &Outside,
) -> Result<(Vec<Route<S>>, ByName), Error> {
    let (mut routes, mut by_name) = (Vec::new(), ByName::default());
    let is_alone = registered.len() == 1;
    for mut registered in registered {
        let gate = registered.gate(broker, queue, outside, is_alone)?;
        let Registered { job, schema, handler, retry, timeout, .. } = registered;
        let timeout = timeout.unwrap_or_else(|| queue.attempt_timeout());
        broker.config().check_timeout(&format!("the timeout of {job}"), timeout)?;
        if !is_valid_name(job) {
            return Err(Error::JobName { job });
        }
        if by_name.insert(job, routes.len()).is_some() {
            return Err(Error::DuplicateHandler { job, queue: queue.name().to_owned() });
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
            metrics,
            gate,
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

impl<S> Handlers<S> {
    /// The index of the handler of a job name; a message without one is for the queue's only handler.
    pub(crate) fn find(&self, job: Option<&str>) -> Option<usize> {
        match job {
            Some(job) => self.by_name.get(job).copied(),
            None => Some(0).filter(|_| self.routes.len() == 1),
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
            None => format!("the message names no job (property type), and queue {queue:?} has several: {known}"),
        }
    }
}
