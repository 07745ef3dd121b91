//! What a process knows of its own health.
//!
//! Liveness means that this process can make progress: it fails when the worker's runtime has not run a timer for
//! [`STALLED`], which is what a handler that blocks all its threads looks like. It never asks the broker: restarting a
//! worker does not repair a broker. Readiness means that every consumer that the worker declared is up.

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

/// A runtime that has run no timer for this long is taken for blocked.
const STALLED: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);

/// What the workers of a process say of themselves.
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
    /// Wanted consumers by name, and whether they are up. More than one may serve a queue.
    consumers: Mutex<BTreeMap<String, Counts>>,
    /// Why there was no connection to the broker the last time that there was none.
    away: Mutex<String>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    wanted: usize,
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
            away: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Announces a consumer that should be up until the returned value is dropped.
    pub(crate) fn want(&self, name: &str) -> Wanted {
        self.change(name, |counts| counts.wanted += 1);
        Wanted { health: self.clone(), name: name.to_owned(), up: false }
    }

    /// Notes that a worker drains, until the returned value is dropped.
    pub(crate) fn drain(&self) -> Draining {
        self.shared.draining.fetch_add(1, Ordering::AcqRel);
        Draining(self.clone())
    }

    /// Notes that a settlement cannot be carried out for now, until the returned value is dropped.
    pub(crate) fn stuck(&self) -> Stuck {
        let unconfirmed = self.shared.metrics.unconfirmed.clone();
        unconfirmed.inc();
        Stuck(unconfirmed)
    }

    /// Notes why there is no connection to the broker.
    pub(crate) fn away(&self, reason: &str) {
        reason.clone_into(&mut self.shared.away.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Counts)) {
        let mut consumers = self.shared.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = consumers.entry(name.to_owned()).or_default();
        change(counts);
        let (wanted, up) = self.shared.metrics.consumers(name);
        wanted.set(i64::try_from(counts.wanted).unwrap_or(i64::MAX));
        up.set(i64::try_from(counts.up).unwrap_or(i64::MAX));
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What keeps the process from being ready.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.shared.draining.load(Ordering::Acquire) > 0 {
            return Some("draining".to_owned());
        }
        if self.shared.metrics.unconfirmed.get() > 0 {
            return Some("the broker does not confirm retries or dead letters".to_owned());
        }
        let consumers = self.shared.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        if consumers.values().all(|counts| counts.wanted == 0) {
            return Some("no worker runs; a process that has none is to be asked at /livez".to_owned());
        }
        let (name, _) = consumers.iter().find(|(_, counts)| counts.up < counts.wanted)?;
        let away = self.shared.away.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.metrics.connected.get() == 0 && !away.is_empty() {
            return Some(format!("no consumer on queue {name:?}: the broker is away: {away}"));
        }
        Some(format!("no consumer on queue {name:?}"))
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

/// A consumer that should be up.
pub(crate) struct Wanted {
    health: Health,
    name: String,
    up: bool,
}

impl Wanted {
    pub(crate) fn set_up(&mut self, up: bool) {
        if self.up != up {
            self.up = up;
            self.health.change(&self.name, |counts| counts.up = if up { counts.up + 1 } else { counts.up - 1 });
        }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.set_up(false);
        self.health.change(&self.name, |counts| counts.wanted -= 1);
    }
}

/// Keeps the process from being ready until this is dropped.
pub(crate) struct Draining(Health);

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.shared.draining.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Keeps the process from being ready until this is dropped.
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
