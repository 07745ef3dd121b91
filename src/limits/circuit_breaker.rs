//! Circuit breakers: one for each dependency that handlers of a worker share, such as a mail server.
//!
//! While a dependency is down, jobs that need it do not reach their handlers, are not charged an attempt, and stay in
//! their queue where all jobs of it need what is down. After a while one job is let through, the probe: what becomes of
//! it decides for all.

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
    error::{Class, Error, JobResult},
    limits::flow::Flow,
    observe::metrics::Metrics,
    topology::delay::UNIT,
};

/// A job that waits for a dependency asks again after this time at the latest.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Something outside that handlers need and that may be down, under the name they give in
/// [`HandlerOptions::circuit`](crate::HandlerOptions::circuit).
///
/// It is taken for down when, within the window, so many attempts failed, and at least half of all that ended. What
/// counts as a failure are errors that may pass and timeouts; what counts as a success are success and permanent errors,
/// which tell that it answered. Panics, snoozes and payloads that are not the job count as neither. A handler that knows
/// better says so with [`JobError::blame`](crate::JobError::blame).
///
/// Each worker process judges for itself.
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
    /// A dependency with the defaults: 5 failures within 30 s, a probe after 10 s.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), failures: 5, window: Duration::from_secs(30), open_for: Duration::from_secs(10) }
    }

    /// Sets how many failures within the window it takes, if they are at least half of what ended: at least 1. A worker
    /// does not start with a circuit breaker that is out of bounds.
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

    /// Sets how long nothing is tried before a probe: at least 0.1 s.
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
    /// Counted since then.
    Closed { since: Instant, failed: u32, fine: u32 },
    /// Down since then; the next probe may start at `probe_at`.
    Open { since: Instant, probe_at: Instant },
    /// Down since then, a probe runs.
    HalfOpen { since: Instant },
}

/// Whether a job may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Run,
    /// It is the probe.
    Probe,
    /// It asks again after this time.
    Wait(Duration),
}

/// What an attempt tells of a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Fine,
    Failed,
    None,
}

/// The breaker of one dependency.
pub(crate) struct Breaker {
    settings: CircuitBreaker,
    circuit: Mutex<State>,
    changed: watch::Sender<()>,
    gauge: IntGauge,
}

impl Breaker {
    pub(crate) fn admit(&self, draw: f64) -> Admission {
        let (now, mut circuit) = (Instant::now(), self.lock());
        let (since, rest) = match *circuit {
            State::Closed { .. } => return Admission::Run,
            State::Open { since, probe_at } if probe_at <= now => {
                *circuit = State::HalfOpen { since };
                self.publish(CircuitState::HalfOpen);
                return Admission::Probe;
            }
            State::Open { since, probe_at } => (since, probe_at - now),
            State::HalfOpen { since } => (since, self.settings.open_for),
        };
        // The longer it is down, the further apart: jobs that wait must not come round and round.
        let spread = (now - since).max(self.settings.open_for).mul_f64(draw);
        Admission::Wait((rest + spread).min(LONGEST_WAIT))
    }

    /// Learns from an attempt that has ended.
    pub(crate) fn report(&self, sign: Sign, was_probe: bool) {
        let (now, mut circuit) = (Instant::now(), self.lock());
        match (*circuit, sign) {
            (State::HalfOpen { .. }, Sign::Fine) if was_probe => {
                *circuit = State::Closed { since: now, failed: 0, fine: 0 };
                tracing::info!(circuit = self.settings.name, "circuit closed");
                self.publish(CircuitState::Closed);
            }
            (State::HalfOpen { since }, sign) if was_probe => {
                // A probe that tells nothing is followed by the next at once.
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
                    tracing::warn!(circuit = self.settings.name, failed, "circuit open: jobs that need it wait");
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

    pub(crate) fn pace(&self, now: Instant) -> Flow {
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
    /// What a result says of a dependency that the job needs.
    pub(crate) fn of(result: &JobResult, dependency: &str) -> Self {
        let Err(error) = result else { return Self::Fine };
        if let Some(blamed) = error.blamed {
            return if blamed.contains(&dependency) { Self::Failed } else { Self::Fine };
        }
        match error.class {
            Class::Retry | Class::RetryAfter(_) | Class::Timeout => Self::Failed,
            Class::Permanent => Self::Fine,
            Class::Snooze(_) | Class::Duplicate | Class::Decode | Class::Panic => Self::None,
        }
    }
}

/// The dependencies of a worker.
#[derive(Debug)]
pub(crate) struct Breakers {
    breakers: HashMap<String, Arc<Breaker>>,
    changed: watch::Sender<()>,
}

impl Breakers {
    /// Those that were set, and those that are only named, with the defaults.
    pub(crate) fn new(set: Vec<CircuitBreaker>, named: impl Iterator<Item = &'static str>, metrics: &Metrics) -> Self {
        let changed = watch::Sender::new(());
        let mut settings: BTreeMap<String, CircuitBreaker> =
            named.map(|name| (name.to_owned(), CircuitBreaker::new(name))).collect();
        settings.extend(set.into_iter().map(|dependency| (dependency.name.clone(), dependency)));
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

    /// Counts an error for those that it blames and that the job has not said it needs.
    pub(crate) fn blame(&self, result: &JobResult, needed: &[Arc<Breaker>]) {
        let Err(error) = result else { return };
        for name in error.blamed.unwrap_or_default() {
            if let Some(breaker) = self.get(name).filter(|breaker| !needed.iter().any(|it| it.name() == breaker.name()))
            {
                breaker.report(Sign::Failed, false);
            }
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::JobError;

    pub(crate) const SECOND: Duration = Duration::from_secs(1);

    pub(crate) fn breaker() -> Arc<Breaker> {
        let metrics = Metrics::new().unwrap();
        let dependencies = Breakers::new(vec![CircuitBreaker::new("smtp").failures(3)], ["db"].into_iter(), &metrics);
        assert!(dependencies.get("db").is_some());
        Arc::clone(dependencies.get("smtp").unwrap())
    }

    pub(crate) fn fail(breaker: &Breaker, times: u32) {
        (0..times).for_each(|_| breaker.report(Sign::Failed, false));
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_so_many_failures_lets_one_probe_through_and_closes_after_its_success() {
        let breaker = breaker();
        fail(&breaker, 2);
        assert_eq!(breaker.admit(0.0), Admission::Run);
        fail(&breaker, 1);
        assert_eq!((breaker.admit(0.0), breaker.gauge.get()), (Admission::Wait(10 * SECOND), 2));
        tokio::time::advance(10 * SECOND).await;
        assert_eq!((breaker.admit(0.0), breaker.state()), (Admission::Probe, CircuitState::HalfOpen));
        assert_eq!(breaker.admit(0.0), Admission::Wait(10 * SECOND), "a single probe");
        breaker.report(Sign::Fine, false);
        assert_eq!(breaker.state(), CircuitState::HalfOpen, "only the probe decides");
        breaker.report(Sign::Failed, true);
        assert_eq!(breaker.admit(0.0), Admission::Wait(10 * SECOND));
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(breaker.admit(0.0), Admission::Probe);
        breaker.report(Sign::None, true);
        assert_eq!(breaker.admit(0.0), Admission::Probe, "one that tells nothing is followed at once");
        breaker.report(Sign::Fine, true);
        assert_eq!((breaker.admit(0.0), breaker.gauge.get()), (Admission::Run, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_are_few_among_many_or_far_apart_do_not_open_it() {
        let breaker = breaker();
        (0..4).for_each(|_| breaker.report(Sign::Fine, false));
        fail(&breaker, 3);
        assert_eq!(breaker.state(), CircuitState::Closed);
        for _ in 0..10 {
            tokio::time::advance(31 * SECOND).await;
            fail(&breaker, 2);
            assert_eq!(breaker.state(), CircuitState::Closed);
        }
        fail(&breaker, 1);
        assert_eq!(breaker.state(), CircuitState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longer_it_is_down_the_further_apart_its_jobs_ask() {
        let breaker = breaker();
        fail(&breaker, 3);
        assert_eq!(breaker.admit(0.5), Admission::Wait(15 * SECOND));
        for _ in 0..6 {
            tokio::time::advance(10 * SECOND).await;
            assert_eq!(breaker.admit(0.5), Admission::Probe);
            breaker.report(Sign::Failed, true);
        }
        assert_eq!(breaker.admit(0.5), Admission::Wait(40 * SECOND));
    }

    #[test]
    fn errors_that_may_pass_count_and_the_others_do_not_unless_the_handler_says_so() {
        let of = |error: JobError| Sign::of(&Err(error), "smtp");
        assert_eq!(Sign::of(&Ok(()), "smtp"), Sign::Fine);
        assert_eq!(of("refused".into()), Sign::Failed);
        assert_eq!(of(JobError::retry_after(SECOND, "busy")), Sign::Failed);
        assert_eq!(of(JobError::new(Class::Timeout, "slow")), Sign::Failed);
        assert_eq!(of(JobError::permanent("no such mailbox")), Sign::Fine);
        assert_eq!(of(JobError::new(Class::Panic, "boom")), Sign::None);
        assert_eq!(of(JobError::snooze(SECOND)), Sign::None);
        assert_eq!(of(JobError::from("locked").blame(&["db"])), Sign::Fine);
        assert_eq!(of(JobError::permanent("login refused").blame(&["smtp"])), Sign::Failed);
    }

    #[tokio::test]
    async fn an_error_of_a_job_that_does_not_need_a_dependency_counts_if_it_blames_it() {
        let metrics = Metrics::new().unwrap();
        let dependencies = Breakers::new(vec![CircuitBreaker::new("smtp").failures(3)], std::iter::empty(), &metrics);
        let smtp = Arc::clone(dependencies.get("smtp").unwrap());
        let refused = |blamed| Err(JobError::from("refused").blame(blamed));
        for result in [Err("refused".into()), refused(&[]), refused(&["db"]), Ok(())] {
            (0..3).for_each(|_| dependencies.blame(&result, &[]));
        }
        (0..3).for_each(|_| dependencies.blame(&refused(&["smtp"]), &[Arc::clone(&smtp)]));
        assert_eq!(smtp.state(), CircuitState::Closed, "nothing blames it, or its need counts already");
        (0..3).for_each(|_| dependencies.blame(&refused(&["smtp"]), &[]));
        assert_eq!(smtp.state(), CircuitState::Open);
    }
}
