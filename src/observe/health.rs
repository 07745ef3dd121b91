//! Health of a process: liveness and readiness.
//!
//! Liveness means that the process makes progress. It fails when the worker's runtime has run no timer for [`STALLED`],
//! as happens when handlers block all its threads. Liveness does not depend on the broker, because restarting a worker
//! does not repair a broker. Readiness means that every consumer that the worker declared is connected.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::IntGauge;

use crate::observe::metrics::Metrics;

/// Longest time without a timer; after it, the runtime counts as blocked.
const STALLED: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);

/// Health state that the workers of a process report.
#[derive(Clone)]
pub(crate) struct Health {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    started: Instant,
    /// Milliseconds after `started` at which the worker's runtime last ran a timer.
    ticked: AtomicU64,
    draining: AtomicU64,
    /// Expected and connected consumers by queue name. More than one consumer may serve a queue.
    consumers: Mutex<BTreeMap<String, Counts>>,
    /// Reason for the last lost or failed connection to the broker.
    unreachable: Mutex<String>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    expected: usize,
    up: usize,
}

impl Health {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            metrics,
            started: Instant::now(),
            ticked: AtomicU64::new(0),
            draining: AtomicU64::new(0),
            consumers: Mutex::default(),
            unreachable: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Registers a consumer that should be connected, until the returned value is dropped.
    pub(crate) fn expect_consumer(&self, name: &str) -> ExpectedConsumer {
        self.change(name, |counts| counts.expected += 1);
        ExpectedConsumer { health: self.clone(), name: name.to_owned(), up: false }
    }

    /// Marks a worker as draining until the returned value is dropped.
    pub(crate) fn drain(&self) -> Draining {
        self.shared.draining.fetch_add(1, Ordering::AcqRel);
        Draining(self.clone())
    }

    /// Marks a settlement as blocked by the broker until the returned value is dropped.
    pub(crate) fn stuck(&self) -> Stuck {
        let unconfirmed = self.shared.metrics.unconfirmed.clone();
        unconfirmed.inc();
        Stuck(unconfirmed)
    }

    /// Stores the reason why there is no connection to the broker.
    pub(crate) fn set_unreachable(&self, reason: &str) {
        reason.clone_into(&mut self.shared.unreachable.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Counts)) {
        let mut consumers = self.shared.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = consumers.entry(name.to_owned()).or_default();
        change(counts);
        let (expected, up) = self.shared.metrics.consumers(name);
        expected.set(i64::try_from(counts.expected).unwrap_or(i64::MAX));
        up.set(i64::try_from(counts.up).unwrap_or(i64::MAX));
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Returns the reason why the process is not ready.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.shared.draining.load(Ordering::Acquire) > 0 {
            return Some("draining".to_owned());
        }
        if self.shared.metrics.unconfirmed.get() > 0 {
            return Some("the broker does not confirm retries or dead letters".to_owned());
        }
        let consumers = self.shared.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        if consumers.values().all(|counts| counts.expected == 0) {
            return Some("no worker runs: probe a process without workers at /livez".to_owned());
        }
        let (name, _) = consumers.iter().find(|(_, counts)| counts.up < counts.expected)?;
        let unreachable = self.shared.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.metrics.connected.get() == 0 && !unreachable.is_empty() {
            return Some(format!("no consumer on queue {name:?}: the broker is unreachable: {unreachable}"));
        }
        Some(format!("no consumer on queue {name:?}"))
    }

    /// Returns whether this queue has all its consumers of this process, and at least one.
    pub(crate) fn consumes(&self, queue: &str) -> bool {
        let consumers = self.shared.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.get(queue).is_some_and(|counts| counts.expected > 0 && counts.up >= counts.expected)
    }

    pub(crate) fn stalled(&self) -> bool {
        let ticked = Duration::from_millis(self.shared.ticked.load(Ordering::Acquire));
        self.shared.started.elapsed().saturating_sub(ticked) > STALLED
    }

    pub(crate) async fn tick(self) {
        loop {
            let now = u64::try_from(self.shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.shared.ticked.store(now, Ordering::Release);
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Guard of a consumer that should be connected.
pub(crate) struct ExpectedConsumer {
    health: Health,
    name: String,
    up: bool,
}

impl ExpectedConsumer {
    pub(crate) fn set_up(&mut self, up: bool) {
        if self.up != up {
            self.up = up;
            self.health.change(&self.name, |counts| counts.up = if up { counts.up + 1 } else { counts.up - 1 });
        }
    }
}

impl Drop for ExpectedConsumer {
    fn drop(&mut self) {
        self.set_up(false);
        self.health.change(&self.name, |counts| counts.expected -= 1);
    }
}

/// Guard that keeps the process from being ready while it exists.
pub(crate) struct Draining(Health);

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.shared.draining.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Guard that keeps the process from being ready while it exists.
pub(crate) struct Stuck(IntGauge);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("unready", &self.unready()).finish()
    }
}
