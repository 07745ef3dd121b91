//! The handlers of one queue, and the facts that its attempts share.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use crate::{
    attempt::{middleware::Chain, run::Route},
    broker::Broker,
    limits::circuit_breaker::Breakers,
    observe::metrics::JobMetrics,
    publish::publisher::Publisher,
    readers::catalogue::CatalogueEntry,
    shutdown::Stop,
    topology::QueueDeclaration,
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
            Some(job) => self.by_name.get(job).copied().or_else(|| only().filter(|_| self.takes_any_type)),
            None => only(),
        }
    }

    pub(crate) fn metrics(&self, index: Option<usize>) -> &JobMetrics {
        index.map_or(&self.unknown, |index| &self.routes[index].metrics)
    }

    /// Returns the jobs that this queue's handlers can run, for the catalogue.
    pub(crate) fn entries(&self, announced_at: SystemTime) -> impl Iterator<Item = CatalogueEntry> {
        self.routes.iter().map(move |route| CatalogueEntry {
            job: route.job.to_owned(),
            queue: self.queue.name().to_owned(),
            lanes: self.queue.has_lanes(),
            single_active: self.queue.is_single_active(),
            existing: self.queue.is_existing(),
            schema: (route.schema)(),
            timeout: route.timeout,
            max_attempts: route.retry.attempts(),
            announced_at,
        })
    }

    /// Returns why there is no handler for a job name.
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
