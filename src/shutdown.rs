//! The stop signals of a process, and its forced end if jobs still run.
//!
//! The signals have a thread of their own, so handlers that block every thread of the runtime do not block the stop.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use tokio_util::sync::CancellationToken;

use crate::{config::Config, observe::metrics::Metrics};

/// Signals this close together count as one: a shell and the parent process may both pass on a Ctrl-C.
const SAME_SIGNAL: Duration = Duration::from_millis(20);
/// Most job ids in the last log line of a process.
const NAMED: usize = 10;
/// The number of SIGINT, for systems without signals.
#[cfg(not(unix))]
const UNKNOWN_SIGNAL: i32 = 2;

/// Completes at the first SIGTERM or Ctrl-C of this process, and stays complete.
///
/// From its first use on, signals end the process like this:
///
/// - The first signal completes this future. If the process still runs when nearly all of [`Config::grace_period`] is
///   over, it exits with code 1. The broker handle with the longest grace period counts, or 30 s without any. So a
///   handler that blocks its thread, or a runtime that waits for one, does not outlast the orchestrator's grace period.
/// - The second signal ends the process at once, with exit code 130 for Ctrl-C and 143 for SIGTERM. A signal within 20
///   ms counts as the first.
///
/// Both log how many jobs were running and the ids of some. The broker redelivers these jobs.
///
/// ```no_run
/// # async fn doc(worker: leveret::Worker<()>, broker: leveret::Broker) -> Result<(), leveret::Error> {
/// worker.run(&broker, leveret::shutdown_signal()).await
/// # }
/// ```
pub async fn shutdown_signal() {
    static STOPPED: OnceLock<watch::Sender<bool>> = OnceLock::new();
    let mut stopped = STOPPED.get_or_init(listen).subscribe();
    if stopped.wait_for(|stopped| *stopped).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Starts the signal thread, and returns once it listens.
fn listen() -> watch::Sender<bool> {
    let (stopped, _) = watch::channel(false);
    let (listens, listening) = mpsc::channel();
    let signalled = stopped.clone();
    let started = std::thread::Builder::new().name("leveret-signals".to_owned()).spawn(move || {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(follow(&signalled, listens)),
            Err(error) => tracing::error!(%error, "cannot listen for SIGTERM"),
        }
    });
    match started {
        // The thread drops its sender once it listens, or when it cannot listen.
        Ok(_) => drop(listening.recv()),
        Err(error) => tracing::error!(%error, "cannot listen for SIGTERM"),
    }
    stopped
}

async fn follow(stopped: &watch::Sender<bool>, listens: mpsc::Sender<()>) {
    let mut signals = Signals::new();
    drop(listens);
    signals.next().await;
    let first = Instant::now();
    stopped.send_replace(true);
    let again = async {
        loop {
            let signal = signals.next().await;
            if first.elapsed() > SAME_SIGNAL {
                return signal;
            }
        }
    };
    tokio::select! {
        signal = again => {
            let (jobs, job_ids) = running();
            tracing::error!(jobs, job_ids, "second stop signal: exiting now, the broker redelivers these jobs");
            std::process::exit(128 + signal);
        }
        () = sleep(longest_stop()) => {
            let (jobs, job_ids) = running();
            tracing::error!(jobs, job_ids, "still running at the end of the grace period: exiting now, the broker redelivers these jobs");
            std::process::exit(1);
        }
    }
}

#[cfg(unix)]
struct Signals([Option<tokio::signal::unix::Signal>; 2]);

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt());
        let interrupt = interrupt.inspect_err(|error| tracing::error!(%error, "cannot listen for Ctrl-C")).ok();
        let terminate = signal(SignalKind::terminate());
        let terminate = terminate.inspect_err(|error| tracing::error!(%error, "cannot listen for SIGTERM")).ok();
        Self([interrupt, terminate])
    }

    /// Returns the number of the next signal.
    async fn next(&mut self) -> i32 {
        use tokio::signal::unix::SignalKind;
        let [interrupt, terminate] = &mut self.0;
        let of = async |signal: &mut Option<tokio::signal::unix::Signal>| {
            let received = match signal {
                Some(signal) => signal.recv().await,
                None => None,
            };
            if received.is_none() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = of(interrupt) => SignalKind::interrupt().as_raw_value(),
            () = of(terminate) => SignalKind::terminate().as_raw_value(),
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) -> i32 {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot listen for Ctrl-C");
            std::future::pending::<()>().await;
        }
        UNKNOWN_SIGNAL
    }
}

/// The stop signals from a worker to its consumers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    /// Start no job, finish the running ones.
    pub(crate) drain: CancellationToken,
    /// The drain deadline has passed: attempts are asked to stop.
    pub(crate) cancel: CancellationToken,
    /// Running attempts are dropped.
    pub(crate) abort: CancellationToken,
}

/// A broker handle, while its metrics are in use.
struct KnownBroker {
    longest_stop: Duration,
    metrics: Weak<Metrics>,
}

/// The facts for the last log lines of the process.
#[derive(Default)]
struct Known {
    brokers: Vec<KnownBroker>,
    /// Running jobs of draining consumers, by consumer and number.
    jobs: BTreeMap<(u64, u64), String>,
}

fn known() -> MutexGuard<'static, Known> {
    static KNOWN: Mutex<Known> = Mutex::new(Known { brokers: Vec::new(), jobs: BTreeMap::new() });
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a broker handle of this process: how long the process may live after the first signal, and its metrics.
pub(crate) fn note(longest_stop: Duration, metrics: &Arc<Metrics>) {
    let mut known = known();
    known.brokers.retain(|broker| broker.metrics.strong_count() > 0);
    known.brokers.push(KnownBroker { longest_stop, metrics: Arc::downgrade(metrics) });
}

/// Returns how long the process may live after the first signal.
fn longest_stop() -> Duration {
    let known = known();
    let present = known.brokers.iter().filter(|broker| broker.metrics.strong_count() > 0);
    let longest = present.map(|broker| broker.longest_stop).max();
    longest.unwrap_or_else(|| Config::default().stop_timeouts().process)
}

/// Returns the number of running jobs and the known ids of some.
fn running() -> (i64, String) {
    let known = known();
    let jobs =
        known.brokers.iter().filter_map(|broker| broker.metrics.upgrade()).map(|metrics| metrics.running()).sum();
    let ids: Vec<_> = known.jobs.values().take(NAMED).map(String::as_str).collect();
    (jobs, ids.join(", "))
}

/// The jobs that a draining consumer waits for, until this is dropped.
pub(crate) struct Unfinished(u64);

impl Unfinished {
    pub(crate) fn new<'a>(jobs: impl Iterator<Item = (u64, &'a str)>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let consumer = NEXT.fetch_add(1, Ordering::Relaxed);
        // Publishers choose ids, so they are escaped.
        known().jobs.extend(jobs.map(|(number, id)| ((consumer, number), format!("{id:?}"))));
        Self(consumer)
    }

    pub(crate) fn remove(&mut self, number: u64) {
        known().jobs.remove(&(self.0, number));
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        known().jobs.retain(|(consumer, _), _| *consumer != self.0);
    }
}
