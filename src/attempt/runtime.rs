//! The handlers of one queue, and the facts that its attempts share.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::SystemTime};

use crate::{
    attempt::{
        admission::Incoming, disposition::Disposition, middleware::Chain, retry_policy::RetryPolicy, run::Route,
    },
    backoff,
    broker::Broker,
    limits::circuit_breaker::Breakers,
    observe::metrics::JobMetrics,
    outcome::{ErrorKind, Outcome},
    publish::publisher::Publisher,
    readers::catalogue::CatalogueEntry,
    shutdown::Stop,
    topology::{QueueDeclaration, topic::Patterns},
};

/// The parts that the consumers of one queue need to run its jobs.
pub(crate) struct QueueRuntime<S> {
    pub(crate) broker: Broker,
    pub(crate) publisher: Publisher,
    pub(crate) stop: Stop,
    pub(crate) queue: QueueDeclaration,
    pub(crate) takes_any_type: bool,
    pub(crate) replies_anywhere: bool,
    pub(crate) state: Arc<S>,
    pub(crate) chain: Arc<Chain<S>>,
    pub(crate) dependencies: Arc<Breakers>,
    pub(crate) routes: Vec<Route<S>>,
    pub(crate) by_name: ByName,
    /// The handlers of topics by pattern, for a subscription.
    pub(crate) patterns: Patterns,
    /// The policy for events without a handler, for a subscription.
    pub(crate) retry_unknown: Option<RetryPolicy>,
    pub(crate) unknown: JobMetrics,
}

/// The index of a handler, by job name and alias.
pub(crate) type ByName = HashMap<&'static str, usize, foldhash::fast::RandomState>;

impl<S> QueueRuntime<S> {
    /// Returns the index of the handler for a job name or alias. A message without a name goes to the queue's only
    /// handler, if that accepts any type.
    pub(crate) fn find(&self, job: Option<&str>) -> Option<usize> {
        let only = || Some(0).filter(|_| self.routes.len() == 1);
        match job {
            Some(job) => {
                let by_pattern = || self.patterns.find(job).or_else(|| only().filter(|_| self.takes_any_type));
                self.by_name.get(job).copied().or_else(by_pattern)
            }
            None => only(),
        }
    }

    pub(crate) fn metrics(&self, index: Option<usize>) -> &JobMetrics {
        index.map_or(&self.unknown, |index| &self.routes[index].metrics)
    }

    /// Returns the jobs that this queue's handlers can run, for the catalogue.
    pub(crate) fn entries(&self, announced_at: SystemTime) -> impl Iterator<Item = CatalogueEntry> {
        // Nothing can be published to the queue of one process, or declared for it.
        let routes = if self.queue.is_each_process() { &[] } else { self.routes.as_slice() };
        routes.iter().map(move |route| CatalogueEntry {
            job: route.job.to_owned(),
            queue: self.queue.name().to_owned(),
            lanes: self.queue.has_lanes(),
            single_active: self.queue.is_single_active(),
            existing: self.queue.is_existing(),
            event: self.queue.is_subscription(),
            keep_last: self.queue.kept_events(),
            schema: (route.schema)(),
            timeout: route.timeout,
            max_attempts: route.retry.attempts(),
            announced_at,
        })
    }

    /// Returns the fate of a message that no handler takes. An event waits for the policy of its subscription: while a
    /// deploy rolls, a binding of the new processes brings its events to old processes too.
    pub(crate) fn without_handler(&self, received: &Incoming) -> Disposition {
        let (kind, reason) = (ErrorKind::UnknownJob, self.unknown(received.message.job_name()));
        let attempt = received.envelope.attempt;
        // The policy may be the user's code, whose panic must not end the consumer.
        let delay = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let policy = self.retry_unknown.as_ref().filter(|policy| attempt < policy.attempts())?;
            Some(policy.delay(attempt, backoff::draws()))
        }));
        match delay {
            Ok(Some(delay)) => Disposition::Outcome(Outcome::Retry { delay, kind, reason }),
            Ok(None) => Disposition::dead(kind, reason),
            Err(_) => Disposition::dead(ErrorKind::Panic, format!("the retry policy panicked after: {reason}")),
        }
    }

    /// Returns why there is no handler for a job name.
    fn unknown(&self, job: Option<&str>) -> String {
        let mut known: Vec<_> = self.by_name.keys().copied().collect();
        known.sort_unstable();
        let (queue, known) = (self.queue.name(), known.join(", "));
        match job {
            Some(topic) if self.queue.is_subscription() => {
                format!(
                    "subscription {queue:?} has no handler for topic {topic:?}; it has: {}",
                    self.queue.topics().join(", ")
                )
            }
            Some(job) => format!("queue {queue:?} has no handler for job {job:?}; it has: {known}"),
            None => format!(
                "the message names no job (header leveret-job or property type), and queue {queue:?} has several: {known}"
            ),
        }
    }
}
