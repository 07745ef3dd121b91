//! A connection to RabbitMQ that is replaced by a new `lapin::Connection` after each loss, indefinitely.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin_guard::ConnectError as GuardError;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    backoff::Backoff,
    transport::amqp::{
        Setup,
        connection::{CLOSE_TIMEOUT, LiveConnection, REPLY, ended, properties, run, too_small},
        probe::ConnectError,
    },
};

/// A connection that ends sooner than this counts as a failed attempt.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The state of a [`Reconnector`]: connected, or disconnected for this reason.
pub(super) type State = Result<Arc<LiveConnection>, String>;

/// The handle was closed.
#[derive(Debug)]
pub(super) struct Closed;

/// A connection that is replaced after each loss, from its first use until the handle is closed.
///
/// A task on the runtime of that first use keeps it connected. If that runtime ends, the next use starts another task.
pub(super) struct Reconnector {
    role: &'static str,
    setup: Arc<Setup>,
    state: watch::Sender<State>,
    is_running: Arc<AtomicBool>,
}

/// Guard of the task that reconnects. When its runtime drops it, the reconnector returns to its state before the first
/// use.
struct RunningGuard {
    setup: Arc<Setup>,
    state: watch::Sender<State>,
    is_running: Arc<AtomicBool>,
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        let up = match &*self.state.borrow() {
            Err(reason) if reason == CLOSED => return,
            state => state.clone().ok(),
        };
        if let Some(up) = up {
            ended(&self.setup, &up);
        }
        drop(self.state.send_replace(Err(NOT_YET.to_owned())));
        self.is_running.store(false, Ordering::Release);
    }
}

impl Reconnector {
    pub(super) fn new(role: &'static str, setup: Arc<Setup>) -> Self {
        let (state, _) = watch::channel(Err(NOT_YET.to_owned()));
        Self { role, setup, state, is_running: Arc::default() }
    }

    /// Waits for the connection.
    pub(super) async fn up(&self) -> Result<Arc<LiveConnection>, Closed> {
        let mut state = self.watch();
        tokio::select! {
            () = self.setup.closed.cancelled() => Err(Closed),
            up = state.wait_for(Result::is_ok) => up.ok().and_then(|up| up.clone().ok()).ok_or(Closed),
        }
    }

    /// Returns the current state and its changes.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        if !self.is_running.swap(true, Ordering::AcqRel) {
            let (setup, state) = (Arc::clone(&self.setup), self.state.clone());
            let reconnecting = reconnect(self.role, Arc::clone(&setup), state.clone());
            let guard = RunningGuard { setup, state, is_running: Arc::clone(&self.is_running) };
            tokio::spawn(async move {
                let _guard = guard;
                reconnecting.await;
            });
        }
        self.state.subscribe()
    }

    /// Returns the state after the first attempt to connect.
    pub(super) async fn first_state(&self) -> State {
        let mut state = self.watch();
        let known = state.wait_for(|state| !matches!(state, Err(reason) if reason == NOT_YET)).await;
        known.map_or_else(|_| Err(CLOSED.to_owned()), |state| state.clone())
    }

    /// Waits until a closed connection has been closed on the broker.
    pub(super) async fn closed(&self) {
        if self.is_running.load(Ordering::Acquire) {
            let mut state = self.state.subscribe();
            let closed = state.wait_for(|state| matches!(state, Err(reason) if reason == CLOSED));
            if timeout(CLOSE_TIMEOUT, closed).await.is_err() {
                tracing::debug!(role = self.role, "the broker did not answer the close");
            }
        }
    }
}

pub(super) const CLOSED: &str = "closed";
const NOT_YET: &str = "not yet connected";

/// Connects, waits for the loss, and reconnects.
async fn reconnect(role: &'static str, setup: Arc<Setup>, state: watch::Sender<State>) {
    let (mut backoff, mut after_refused_login) = (backoff(), backoff_of_login());
    let mut handshake_timeout = HandshakeTimeout::default();
    let mut first = 0;
    loop {
        let connected = tokio::select! {
            () = setup.closed.cancelled() => break,
            connected = connect(role, &setup, first, &mut handshake_timeout) => connected,
        };
        let (reason, is_refused) = match connected {
            Ok((up, peer)) => {
                handshake_timeout = HandshakeTimeout::default();
                after_refused_login.reset();
                let connected = Instant::now();
                let log = || tracing::info!(role, broker = up.address, address = %peer, "connected to the broker");
                if role == REPLY {
                    setup.log_throttle.log(format!("{role}: connected"), log);
                } else {
                    log();
                }
                let reason = run(role, &setup, Arc::clone(&up), &state).await;
                first = up.next_index();
                // A connection that ends at once must not be replaced in a hot loop.
                if connected.elapsed() > SHORT_LIFE {
                    backoff.reset();
                }
                (reason, false)
            }
            Err(NotConnected { reason, is_refused }) => {
                setup.log_throttle.log(format!("{role}: {reason}"), || {
                    tracing::warn!(role, error = reason, "cannot connect to the broker, retrying");
                });
                (reason, is_refused)
            }
        };
        if role != REPLY {
            setup.health.set_unreachable(&reason);
        }
        drop(state.send_replace(Err(reason)));
        let backoff = if is_refused { &mut after_refused_login } else { &mut backoff };
        if setup.closed.run_until_cancelled(backoff.sleep()).await.is_none() {
            break;
        }
    }
    drop(state.send_replace(Err(CLOSED.to_owned())));
}

/// The reason why there is no connection.
struct NotConnected {
    reason: String,
    /// True if a broker refused the login.
    is_refused: bool,
}

/// Tries every address once, starting with the one at index `first`.
async fn connect(
    role: &'static str,
    setup: &Setup,
    first: usize,
    handshake_timeout: &mut HandshakeTimeout,
) -> Result<(Arc<LiveConnection>, SocketAddr), NotConnected> {
    let (mut reason, mut is_silent, mut is_refused) = ("no address".to_owned(), false, false);
    let count = setup.addresses.len();
    for (index, address) in setup.addresses.iter().enumerate().cycle().skip(first % count.max(1)).take(count) {
        let options = setup.tls.options(handshake_timeout.0);
        match lapin_guard::connect(&address.uri(), properties(role, address), &options).await {
            Ok((connection, guard)) => {
                if let Some(problem) = too_small(&connection) {
                    reason = format!("{address}: {problem}");
                    drop(timeout(handshake_timeout.0, connection.close(200, "frame_max".into())).await);
                    continue;
                }
                let peer = guard.peer();
                return Ok((Arc::new(LiveConnection::new(connection, guard, address, index)), peer));
            }
            Err(failure) => {
                is_silent |= matches!(failure, GuardError::Silent(_));
                let error = ConnectError::of(&failure, address);
                is_refused |= matches!(error, ConnectError::Login { .. });
                reason = error.to_string();
            }
        }
    }
    if is_silent {
        handshake_timeout.grow();
    }
    Err(NotConnected { reason, is_refused })
}

/// The timeout of a handshake. It is short, so that a handshake with a lost answer is soon repeated. It grows after
/// each timeout, for a slow broker.
struct HandshakeTimeout(Duration);

impl Default for HandshakeTimeout {
    fn default() -> Self {
        Self(FIRST_TIMEOUT)
    }
}

impl HandshakeTimeout {
    fn grow(&mut self) {
        self.0 = (self.0 * 2).min(LONGEST_TIMEOUT);
    }
}

/// Returns delays of up to one second, with their jitter.
fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_millis(500)).jitter()
}

/// Returns delays from one second up to thirty, with their jitter. Brokers, and the directories behind them, treat a
/// login that is repeated often as an attack, and a wrong login is rarely fixed within a second.
fn backoff_of_login() -> Backoff {
    Backoff::new(Duration::from_secs(1), Duration::from_secs(15)).jitter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_retried_rarely_but_within_thirty_seconds() {
        let (mut backoff, mut login) = (backoff(), backoff_of_login());
        let delays: Vec<_> = (0..12).map(|_| login.delay()).collect();
        let first_four: Duration = delays[..4].iter().sum();
        assert!(first_four >= Duration::from_secs(15), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(30)), "{delays:?}");
        assert!((0..100).all(|_| backoff.delay() <= Duration::from_secs(1)));
    }
}
