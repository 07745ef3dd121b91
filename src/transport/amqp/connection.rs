//! One connection to RabbitMQ, reconnected indefinitely with a new `lapin::Connection` after each loss.

use std::{
    net::SocketAddr,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use lapin_guard::{ConnectError as GuardError, Guard};
use tokio::{
    sync::{SetOnce, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::transport::amqp::{
    Address, FRAME_MAX, Setup,
    patience::{HandshakeTimeout, backoff, login_backoff},
    probe::ConnectError,
};
use crate::{
    config::Config,
    error::Error,
    identity::{HOST, PROGRAM},
    transport::SendError,
};

/// Longest wait for the broker's answer to a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// Interval of checks of a connection that has reported nothing.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A live connection, until `lost` is cancelled.
#[derive(Debug)]
pub(super) struct LiveConnection {
    pub(super) connection: Connection,
    /// The host and port of the settings.
    address: String,
    /// The longest silence of the broker.
    longest_silence: Duration,
    guard: Guard,
    pub(super) lost: CancellationToken,
    /// The broker's reason for blocking publishes.
    pub(super) blocked: watch::Sender<Option<String>>,
    /// The reason for replacing it with a new connection.
    retire: SetOnce<String>,
    /// The index of its address.
    index: usize,
}

impl LiveConnection {
    /// Waits until publishes cannot be sent on this connection, and returns the reason.
    pub(super) async fn obstacle(&self) -> SendError {
        let mut blocked = self.blocked.subscribe();
        tokio::select! {
            () = self.lost.cancelled() => SendError::Unavailable("the connection was lost".to_owned()),
            // The sender is a field of `self`, so it is not dropped.
            Ok(reason) = blocked.wait_for(Option::is_some) => {
                SendError::Blocked(reason.clone().unwrap_or_default())
            }
        }
    }

    /// Opens a channel.
    ///
    /// lapin never reuses the id of a channel that the broker has closed, although it selects that id again. It also
    /// keeps channels that failed to open for this reason, until no id is left. So the first such failure replaces the
    /// connection.
    pub(super) async fn channel(&self) -> Result<Channel, String> {
        let opening = async {
            let opened = self.connection.create_channel().await;
            if let Err(error) = &opened
                && self.is_replaceable(error)
            {
                self.retire(&format!("lapin cannot reuse the id of a closed channel: {error}"));
            }
            opened
        };
        self.unless_lost(opening).await
    }

    /// Retires the connection: a new one replaces it, at the next address if there are several.
    pub(super) fn retire(&self, reason: &str) {
        // An earlier reason has priority.
        drop(self.retire.set(format!("retired: {reason}")));
    }

    /// Returns whether a channel failed to open that a new connection would open.
    fn is_replaceable(&self, error: &lapin::Error) -> bool {
        self.connection.status().connected() && !matches!(error.kind(), ErrorKind::ChannelsLimitReached)
    }

    /// Returns the result of `work`, unless the connection is lost before. lapin drops commands that are in progress at
    /// its end, and their futures would never complete.
    pub(super) async fn unless_lost<T>(&self, work: impl Future<Output = lapin::Result<T>>) -> Result<T, String> {
        tokio::select! {
            done = work => done.map_err(|error| error.to_string()),
            () = self.lost.cancelled() => Err("the connection was lost".to_owned()),
        }
    }
}

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
            if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
                tracing::debug!(role = self.role, "the broker did not answer the close");
            }
        }
    }
}

const CLOSED: &str = "closed";
const NOT_YET: &str = "not yet connected";

/// Connects, waits for the loss, and reconnects.
async fn reconnect(role: &'static str, setup: Arc<Setup>, state: watch::Sender<State>) {
    let (mut delays, mut login_delays, mut patience) = (backoff(), login_backoff(), HandshakeTimeout::default());
    let mut first = 0;
    loop {
        let connected = tokio::select! {
            () = setup.closed.cancelled() => break,
            connected = connect(role, &setup, first, &mut patience) => connected,
        };
        let (reason, is_refused) = match connected {
            Ok((up, peer)) => {
                (patience, login_delays) = (HandshakeTimeout::default(), login_backoff());
                let connected = Instant::now();
                tracing::info!(role, broker = up.address, address = %peer, "connected to the broker");
                let reason = live(role, &setup, Arc::clone(&up), &state).await;
                // Its node may answer but not work, such as one that was separated from its cluster.
                first = if up.retire.initialized() { up.index + 1 } else { 0 };
                // A connection that ends at once must not be replaced in a hot loop.
                if connected.elapsed() > SHORT_LIFE {
                    delays = backoff();
                }
                (reason, false)
            }
            Err(NotConnected { reason, is_refused }) => {
                if setup.log_throttle.should_log(format!("{role}: {reason}")) {
                    tracing::warn!(role, error = reason, "cannot connect to the broker, retrying");
                }
                (reason, is_refused)
            }
        };
        setup.health.set_unreachable(&reason);
        drop(state.send_replace(Err(reason)));
        let delay = if is_refused { login_delays.next() } else { delays.next() }.unwrap_or(SHORT_LIFE);
        tokio::select! {
            () = setup.closed.cancelled() => break,
            () = tokio::time::sleep(delay) => {}
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
    patience: &mut HandshakeTimeout,
) -> Result<(Arc<LiveConnection>, SocketAddr), NotConnected> {
    let (mut reason, mut is_silent, mut is_refused) = ("no address".to_owned(), false, false);
    let count = setup.addresses.len();
    for (index, address) in setup.addresses.iter().enumerate().cycle().skip(first % count.max(1)).take(count) {
        let options = setup.tls.options(patience.0);
        match lapin_guard::connect(&address.uri(), properties(role, address), &options).await {
            Ok((connection, guard)) => {
                if let Some(problem) = too_small(&connection) {
                    reason = format!("{address}: {problem}");
                    drop(tokio::time::timeout(patience.0, connection.close(200, "frame_max".into())).await);
                    continue;
                }
                let (blocked, _) = watch::channel(None);
                let (lost, retire) = (CancellationToken::new(), SetOnce::new());
                let (longest_silence, peer) = (Duration::from_secs(address.heartbeat.into()) * 2, guard.peer());
                let up = LiveConnection {
                    connection,
                    address: address.to_string(),
                    index,
                    longest_silence,
                    guard,
                    lost,
                    blocked,
                    retire,
                };
                return Ok((Arc::new(up), peer));
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
        patience.grow();
    }
    Err(NotConnected { reason, is_refused })
}

/// Returns why this broker is unusable, if its frames are too small. A job's headers may fill most of a frame, and a
/// frame that is too large ends the connection.
pub(super) fn too_small(connection: &Connection) -> Option<String> {
    let most = connection.configuration().frame_max();
    (1..FRAME_MAX).contains(&most).then(|| {
        format!("the broker's frame_max is {most}: set it to {FRAME_MAX} in rabbitmq.conf, which is RabbitMQ's default")
    })
}

/// Runs one connection; returns why it ended.
async fn live(role: &'static str, setup: &Setup, up: Arc<LiveConnection>, state: &watch::Sender<State>) -> String {
    setup.metrics.connected.inc();
    let mut events = Box::pin(up.connection.events_listener());
    drop(state.send_replace(Ok(Arc::clone(&up))));
    let reason = loop {
        let event = tokio::select! {
            reason = ended_here(setup, &up) => {
                up.lost.cancel();
                close(&up).await;
                break reason;
            }
            event = events.next() => event,
            () = tokio::time::sleep(CHECK_INTERVAL) => {
                if !up.connection.status().connected() {
                    break format!("{:?}", up.connection.status());
                }
                // lapin would notice as well, up to half a heartbeat later.
                let silence = up.guard.silent_for();
                if silence > up.longest_silence {
                    break format!("no frame received for {} s, not even a heartbeat", silence.as_secs());
                }
                continue;
            }
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => set_blocked(setup, &up, Some(reason)),
            Some(Event::ConnectionUnblocked) => set_blocked(setup, &up, None),
            // lapin reports closed channels here too; their owners handle those.
            Some(Event::Error(error)) if !up.connection.status().connected() => break error.to_string(),
            Some(_) => {}
            None => break "the connection ended".to_owned(),
        }
    };
    ended(setup, &up);
    if reason != CLOSED {
        setup.metrics.reconnects.inc();
        tracing::warn!(role, error = reason, "lost the connection to the broker");
    }
    reason
}

fn ended(setup: &Setup, up: &LiveConnection) {
    up.lost.cancel();
    setup.metrics.connected.dec();
    if up.blocked.send_replace(None).is_some() {
        setup.metrics.blocked.dec();
    }
}

/// Waits until this process ends the connection, and returns the reason.
async fn ended_here(setup: &Setup, up: &LiveConnection) -> String {
    tokio::select! {
        () = setup.closed.cancelled() => CLOSED.to_owned(),
        reason = up.retire.wait() => reason.clone(),
    }
}

async fn close(up: &LiveConnection) {
    let close = up.connection.close(200, "closed".into());
    if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, close).await, Ok(Ok(()))) {
        tracing::debug!("the connection was gone before it was closed");
    }
}

fn set_blocked(setup: &Setup, up: &LiveConnection, reason: Option<String>) {
    let before = up.blocked.send_replace(reason.clone());
    match (before, reason) {
        (None, Some(reason)) => {
            setup.metrics.blocked.inc();
            tracing::warn!(error = reason, "the broker blocks publishes");
        }
        (Some(_), None) => {
            setup.metrics.blocked.dec();
            tracing::info!("the broker accepts publishes again");
        }
        _ => {}
    }
}

/// Returns the client properties that RabbitMQ lists of a connection.
pub(super) fn properties(role: &str, address: &Address) -> ConnectionProperties {
    let (program, host, pid) = (PROGRAM.as_str(), HOST.as_str(), process::id().to_string());
    let name = || format!("{program}@{host}#{pid} {role}");
    let name = address.connection_name.clone().unwrap_or_else(name);
    let properties_of_process = [
        ("product", "Leveret"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("program", program),
        ("host", host),
        ("pid", pid.as_str()),
        ("role", role),
    ];
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    properties_of_process
        .into_iter()
        .fold(properties, |properties, (key, value)| properties.with_client_property(key.into(), value.into()))
}

/// Parses the addresses of the settings.
pub(super) fn parse_addresses(config: &Config) -> Result<Vec<Address>, Error> {
    let addresses: Vec<_> =
        config.addresses().map(|address| Address::parse(address, config.heartbeat)).collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(Error::Setting { setting: "AMQP_URL", reason: "it contains no address".to_owned() });
    }
    Ok(addresses)
}
