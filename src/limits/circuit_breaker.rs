//! Circuit breakers: one for each external service that handlers of a worker share, such as a mail server.
//!
//! While a circuit is open, its jobs do not reach their handlers and no attempt counts. They stay in their queue if all
//! jobs of the queue use open circuits. After a while one job runs as a probe: its result decides for all.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus::IntGauge;
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};

use crate::{
    error::{Class, Error, JobError, JobResult},
    limits::flow::Flow,
    observe::metrics::Metrics,
    topology::delay::UNIT,
};

/// Longest wait of a job for an open circuit before it is checked again.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A circuit breaker for an external service, under the name that handlers give in
/// [`HandlerOptions::circuit`](crate::HandlerOptions::circuit).
///
/// The circuit opens when, within the window, the set number of attempts failed, and at least half of all that ended.
/// Retryable errors and timeouts count as failures. Success and permanent errors count as success, because the service
/// answered. Panics, snoozes and undecodable payloads count as neither. A handler with better knowledge uses
/// [`JobError::blame`](crate::JobError::blame), or [`Context::skip_circuit`](crate::Context::skip_circuit) if it did not
/// use the service.
///
/// Each worker process has its own circuit state.
///
/// ```
/// use std::time::Duration;
/// use leveret::CircuitBreaker;
///
/// let smtp = CircuitBreaker::new("smtp")
///     .failures(5)                                  // these are the defaults
///     .window(Duration::from_secs(30))
///     .open_for(Duration::from_secs(10));
/// # let _ = smtp;
/// ```
#[derive(Clone, Debug)]
pub struct CircuitBreaker {
    name: String,
    failures: u32,
    window: Duration,
    open_for: Duration,
}

impl CircuitBreaker {
    /// Creates a circuit breaker with the defaults: 5 failures within 30 s, a probe after 10 s.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), failures: 5, window: Duration::from_secs(30), open_for: Duration::from_secs(10) }
    }

    /// Sets the number of failures within the window that open the circuit, if they are at least half of the ended
    /// attempts: at least 1. A worker does not start with a circuit breaker that is out of bounds.
    #[must_use]
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets the window: more than 0.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how long the circuit stays open before a probe; at least 0.1 s.
    #[must_use]
    pub fn open_for(mut self, time: Duration) -> Self {
        self.open_for = time;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |setting, value: &dyn fmt::Debug, bounds| {
            Err(Error::bounds(setting, &format!("circuit {:?}", self.name), value, bounds))
        };
        if self.failures == 0 {
            return wrong("CircuitBreaker::failures", &self.failures, "at least 1");
        }
        if self.window.is_zero() {
            return wrong("CircuitBreaker::window", &self.window, "more than 0");
        }
        if self.open_for < UNIT {
            return wrong("CircuitBreaker::open_for", &self.open_for, "at least 100ms");
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// The state of a circuit breaker; see [`Context::circuit`](crate::Context::circuit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// Jobs run.
    Closed,
    /// One job runs as a probe.
    HalfOpen,
    /// No job runs.
    Open,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Counting since then.
    Closed { since: Instant, failed: u32, fine: u32 },
    /// Open since then; the next probe may start at `probe_at`.
    Open { since: Instant, probe_at: Instant },
    /// Open since then; a probe runs.
    HalfOpen { since: Instant },
}

/// The decision whether a job may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CircuitAdmission {
    Run,
    /// The job is the probe.
    Probe,
    /// The job is checked again after this time.
    Wait(Duration),
}

/// The evidence of one attempt about a circuit's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Fine,
    Failed,
    None,
}

/// The breaker of one circuit.
pub(crate) struct Breaker {
    settings: CircuitBreaker,
    circuit: Mutex<State>,
    changed: watch::Sender<()>,
    gauge: IntGauge,
}

impl Breaker {
    pub(crate) fn admit(&self, draw: f64) -> CircuitAdmission {
        let (now, mut circuit) = (Instant::now(), self.lock());
        let (since, rest) = match *circuit {
            State::Closed { .. } => return CircuitAdmission::Run,
            State::Open { since, probe_at } if probe_at <= now => {
                *circuit = State::HalfOpen { since };
                self.publish(CircuitState::HalfOpen);
                return CircuitAdmission::Probe;
            }
            State::Open { since, probe_at } => (since, probe_at - now),
            State::HalfOpen { since } => (since, self.settings.open_for),
        };
        // The longer the outage, the further apart: waiting jobs must not circulate through the broker.
        let spread = (now - since).max(self.settings.open_for).mul_f64(draw);
        CircuitAdmission::Wait((rest + spread).min(LONGEST_WAIT))
    }

    /// Records the result of an ended attempt.
    pub(crate) fn report(&self, sign: Sign, was_probe: bool) {
        let (now, mut circuit) = (Instant::now(), self.lock());
        match (*circuit, sign) {
            (State::HalfOpen { .. }, Sign::Fine) if was_probe => {
                *circuit = State::Closed { since: now, failed: 0, fine: 0 };
                tracing::info!(circuit = self.settings.name, "circuit closed");
                self.publish(CircuitState::Closed);
            }
            (State::HalfOpen { since }, sign) if was_probe => {
                // An inconclusive probe is followed by the next at once.
                let probe_at = if sign == Sign::Failed { now + self.settings.open_for } else { now };
                *circuit = State::Open { since, probe_at };
                self.publish(CircuitState::Open);
            }
            (State::Closed { since, failed, fine }, Sign::Failed | Sign::Fine) => {
                let fresh = now - since > self.settings.window;
                let (since, failed, fine) = if fresh { (now, 0, 0) } else { (since, failed, fine) };
                let (failed, fine) = (failed + u32::from(sign == Sign::Failed), fine + u32::from(sign == Sign::Fine));
                *circuit = State::Closed { since, failed, fine };
                if sign == Sign::Failed && failed >= self.settings.failures && failed >= fine {
                    *circuit = State::Open { since: now, probe_at: now + self.settings.open_for };
                    tracing::warn!(circuit = self.settings.name, failed, "circuit open: its jobs wait");
                    self.publish(CircuitState::Open);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn state(&self) -> CircuitState {
        match *self.lock() {
            State::Closed { .. } => CircuitState::Closed,
            State::Open { .. } => CircuitState::Open,
            State::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.settings.name()
    }

    pub(crate) fn flow(&self, now: Instant) -> Flow {
        match *self.lock() {
            State::Closed { .. } => Flow::Full,
            State::Open { probe_at, .. } if probe_at <= now => Flow::One,
            State::Open { probe_at, .. } => Flow::None(Some(probe_at)),
            State::HalfOpen { .. } => Flow::None(None),
        }
    }

    fn publish(&self, state: CircuitState) {
        self.gauge.set(match state {
            CircuitState::Closed => 0,
            CircuitState::HalfOpen => 1,
            CircuitState::Open => 2,
        });
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("settings", &self.settings).field("circuit", &*self.lock()).finish()
    }
}

impl Sign {
    /// Returns what a result shows about a circuit of the job. A skipped circuit can only be blamed.
    pub(crate) fn of(result: &JobResult, circuit: &str, is_skipped: bool) -> Self {
        match result {
            Err(JobError { blamed: Some(blamed), .. }) if blamed.contains(&circuit) => Self::Failed,
            _ if is_skipped => Self::None,
            Ok(()) | Err(JobError { blamed: Some(_), .. }) => Self::Fine,
            Err(error) => Self::of_class(&error.class),
        }
    }

    fn of_class(class: &Class) -> Self {
        match class {
            Class::Retry | Class::RetryAfter(_) | Class::Timeout => Self::Failed,
            Class::Permanent => Self::Fine,
            Class::Snooze(_) | Class::Yield | Class::Duplicate | Class::Decode | Class::Panic => Self::None,
        }
    }
}

/// The circuit breakers of a worker.
#[derive(Debug)]
pub(crate) struct Breakers {
    breakers: HashMap<String, Arc<Breaker>>,
    changed: watch::Sender<()>,
}

impl Breakers {
    /// Creates the configured breakers, and breakers with the defaults for the other names.
    pub(crate) fn new(set: Vec<CircuitBreaker>, named: impl Iterator<Item = &'static str>, metrics: &Metrics) -> Self {
        let changed = watch::Sender::new(());
        let mut settings: BTreeMap<String, CircuitBreaker> =
            named.map(|name| (name.to_owned(), CircuitBreaker::new(name))).collect();
        settings.extend(set.into_iter().map(|breaker| (breaker.name.clone(), breaker)));
        let breaker = |(name, settings): (String, CircuitBreaker)| {
            let gauge = metrics.circuit(&name);
            gauge.set(0);
            let circuit = Mutex::new(State::Closed { since: Instant::now(), failed: 0, fine: 0 });
            (name, Arc::new(Breaker { settings, circuit, changed: changed.clone(), gauge }))
        };
        Self { breakers: settings.into_iter().map(breaker).collect(), changed }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Breaker>> {
        self.breakers.get(name)
    }

    /// Counts an error against the circuits that it blames and that the job does not use.
    pub(crate) fn blame(&self, result: &JobResult, used: &[Arc<Breaker>]) {
        let Err(error) = result else { return };
        for name in error.blamed.unwrap_or_default() {
            if let Some(breaker) = self.get(name).filter(|breaker| !used.iter().any(|it| it.name() == breaker.name())) {
                breaker.report(Sign::Failed, false);
            }
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
#[path = "circuit_breaker_tests.rs"]
pub(crate) mod tests;
