//! One connection to RabbitMQ, kept up for ever: a fresh `lapin::Connection` after each loss.

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

/// How long the broker may take to answer a goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// How often a connection is looked at that has reported nothing.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A connection that is up, until `lost` is cancelled.
#[derive(Debug)]
pub(super) struct LiveConnection {
    pub(super) connection: Connection,
    /// The host and port of the settings.
    address: String,
    /// How long the broker may be silent.
    longest_silence: Duration,
    guard: Guard,
    pub(super) lost: CancellationToken,
    /// The broker's reason for taking no publishes now.
    pub(super) blocked: watch::Sender<Option<String>>,
    /// Why it is to be given up for a fresh one.
    retire: SetOnce<String>,
    /// The index of its address.
    index: usize,
}

impl LiveConnection {
    /// Waits until nothing can be published here now, and says why.
    pub(super) async fn obstacle(&self) -> SendError {
        let mut blocked = self.blocked.subscribe();
        tokio::select! {
            () = self.lost.cancelled() => SendError::Unavailable("the connection was lost".to_owned()),
            // Its sender is here.
            Ok(reason) = blocked.wait_for(Option::is_some) => {
                SendError::Blocked(reason.clone().unwrap_or_default())
            }
        }
    }

    /// A new channel.
    ///
    /// lapin never uses the id of a channel that the broker has closed again, though its turn comes, and keeps what then
    /// failed to open, until no id is left. So the first failure of this kind has the connection made anew.
    pub(super) async fn channel(&self) -> Result<Channel, String> {
        let opening = async {
            let opened = self.connection.create_channel().await;
            if let Err(error) = &opened
                && self.is_worn_out(error)
            {
                self.give_up(&format!("lapin opens no channel in the place of one closed by {error}"));
            }
            opened
        };
        self.unless_lost(opening).await
    }

    /// Gives the connection up for a fresh one, at the next address if there are several.
    pub(super) fn give_up(&self, reason: &str) {
        // An earlier reason does as well.
        drop(self.retire.set(format!("given up: {reason}")));
    }

    /// Whether a channel failed to open that a fresh connection would open.
    fn is_worn_out(&self, error: &lapin::Error) -> bool {
        self.connection.status().connected() && !matches!(error.kind(), ErrorKind::ChannelsLimitReached)
    }

    /// What `work` comes to, unless the connection is lost before: lapin drops commands that meet its end half-way, and
    /// their futures with them would never be ready.
    pub(super) async fn unless_lost<T>(&self, work: impl Future<Output = lapin::Result<T>>) -> Result<T, String> {
        tokio::select! {
            done = work => done.map_err(|error| error.to_string()),
            () = self.lost.cancelled() => Err("the connection was lost".to_owned()),
        }
    }
}

/// The state of a [`Reconnector`]: up, or down for this reason.
pub(super) type State = Result<Arc<LiveConnection>, String>;

/// The handle was closed.
#[derive(Debug)]
pub(super) struct Closed;

/// A connection that is made anew after each loss, from its first use until the handle is closed.
///
/// A task of the runtime of that first use keeps it up. If that runtime ends, the next use starts another.
pub(super) struct Reconnector {
    role: &'static str,
    setup: Arc<Setup>,
    state: watch::Sender<State>,
    is_kept_up: Arc<AtomicBool>,
}

/// Held by the task that keeps a link up. Dropped with its runtime, it leaves the link as it was before its first use.
struct Kept {
    setup: Arc<Setup>,
    state: watch::Sender<State>,
    is_kept_up: Arc<AtomicBool>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let up = match &*self.state.borrow() {
            Err(reason) if reason == CLOSED => return,
            state => state.clone().ok(),
        };
        if let Some(up) = up {
            ended(&self.setup, &up);
        }
        drop(self.state.send_replace(Err(NOT_YET.to_owned())));
        self.is_kept_up.store(false, Ordering::Release);
    }
}

impl Reconnector {
    pub(super) fn new(role: &'static str, setup: Arc<Setup>) -> Self {
        let (state, _) = watch::channel(Err(NOT_YET.to_owned()));
        Self { role, setup, state, is_kept_up: Arc::default() }
    }

    /// Waits for the connection.
    pub(super) async fn up(&self) -> Result<Arc<LiveConnection>, Closed> {
        let mut state = self.watch();
        tokio::select! {
            () = self.setup.closed.cancelled() => Err(Closed),
            up = state.wait_for(Result::is_ok) => up.ok().and_then(|up| up.clone().ok()).ok_or(Closed),
        }
    }

    /// The state now and its changes.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        if !self.is_kept_up.swap(true, Ordering::AcqRel) {
            let (setup, state) = (Arc::clone(&self.setup), self.state.clone());
            let keeping_up = keep_up(self.role, Arc::clone(&setup), state.clone());
            let kept = Kept { setup, state, is_kept_up: Arc::clone(&self.is_kept_up) };
            tokio::spawn(async move {
                let _kept = kept;
                keeping_up.await;
            });
        }
        self.state.subscribe()
    }

    /// The state once the first attempt to connect is over.
    pub(super) async fn first_state(&self) -> State {
        let mut state = self.watch();
        let known = state.wait_for(|state| !matches!(state, Err(reason) if reason == NOT_YET)).await;
        known.map_or_else(|_| Err(CLOSED.to_owned()), |state| state.clone())
    }

    /// Waits until a closed link has said goodbye to the broker.
    pub(super) async fn closed(&self) {
        if self.is_kept_up.load(Ordering::Acquire) {
            let mut state = self.state.subscribe();
            let goodbye = state.wait_for(|state| matches!(state, Err(reason) if reason == CLOSED));
            if tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
                tracing::debug!(role = self.role, "the broker did not answer the goodbye");
            }
        }
    }
}

const CLOSED: &str = "closed";
const NOT_YET: &str = "not yet connected";

/// Connects, waits for the loss, and begins again.
async fn keep_up(role: &'static str, setup: Arc<Setup>, state: watch::Sender<State>) {
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
                // Its node may be one that answers and cannot work, such as one that its cluster has lost.
                first = if up.retire.initialized() { up.index + 1 } else { 0 };
                // One that something ends at once must not be made again in a hot loop.
                if connected.elapsed() > SHORT_LIFE {
                    delays = backoff();
                }
                (reason, false)
            }
            Err(NotConnected { reason, is_refused }) => {
                if setup.log_throttle.should_log(format!("{role}: {reason}")) {
                    tracing::warn!(role, error = reason, "cannot connect to the broker, trying again");
                }
                (reason, is_refused)
            }
        };
        setup.health.away(&reason);
        drop(state.send_replace(Err(reason)));
        let delay = if is_refused { login_delays.next() } else { delays.next() }.unwrap_or(SHORT_LIFE);
        tokio::select! {
            () = setup.closed.cancelled() => break,
            () = tokio::time::sleep(delay) => {}
        }
    }
    drop(state.send_replace(Err(CLOSED.to_owned())));
}

/// Why there is no connection.
struct NotConnected {
    reason: String,
    /// Whether a broker refused the login.
    is_refused: bool,
}

/// Tries every address once, beginning with the one of that index.
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
                    drop(tokio::time::timeout(patience.0, connection.close(200, "goodbye".into())).await);
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

/// Why this broker is not worked with, if its frames are too small. A job may fill most of one with its headers, and a
/// frame that is too large ends the connection.
pub(super) fn too_small(connection: &Connection) -> Option<String> {
    let most = connection.configuration().frame_max();
    (1..FRAME_MAX).contains(&most).then(|| {
        format!("the broker's frame_max is {most}: set it to {FRAME_MAX} in rabbitmq.conf, which is RabbitMQ's default")
    })
}

/// The life of one connection; returns why it ended.
async fn live(role: &'static str, setup: &Setup, up: Arc<LiveConnection>, state: &watch::Sender<State>) -> String {
    setup.metrics.connected.inc();
    let mut events = Box::pin(up.connection.events_listener());
    drop(state.send_replace(Ok(Arc::clone(&up))));
    let reason = loop {
        let event = tokio::select! {
            reason = given_up(setup, &up) => {
                up.lost.cancel();
                goodbye(&up).await;
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
                    break format!("nothing received for {} s, not even a heartbeat", silence.as_secs());
                }
                continue;
            }
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => set_blocked(setup, &up, Some(reason)),
            Some(Event::ConnectionUnblocked) => set_blocked(setup, &up, None),
            // lapin tells of closed channels here too; those are their owners' business.
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

/// Why we end the connection ourselves, once we do.
async fn given_up(setup: &Setup, up: &LiveConnection) -> String {
    tokio::select! {
        () = setup.closed.cancelled() => CLOSED.to_owned(),
        reason = up.retire.wait() => reason.clone(),
    }
}

async fn goodbye(up: &LiveConnection) {
    let close = up.connection.close(200, "goodbye".into());
    if !matches!(tokio::time::timeout(GOODBYE_TIMEOUT, close).await, Ok(Ok(()))) {
        tracing::debug!("the connection was gone before it was closed");
    }
}

fn set_blocked(setup: &Setup, up: &LiveConnection, reason: Option<String>) {
    let before = up.blocked.send_replace(reason.clone());
    match (before, reason) {
        (None, Some(reason)) => {
            setup.metrics.blocked.inc();
            tracing::warn!(error = reason, "the broker takes no publishes now");
        }
        (Some(_), None) => {
            setup.metrics.blocked.dec();
            tracing::info!("the broker takes publishes again");
        }
        _ => {}
    }
}

/// What RabbitMQ lists of a connection.
pub(super) fn properties(role: &str, address: &Address) -> ConnectionProperties {
    let (program, host, pid) = (PROGRAM.as_str(), HOST.as_str(), process::id().to_string());
    let name = || format!("{program}@{host}#{pid} {role}");
    let name = address.connection_name.clone().unwrap_or_else(name);
    let said = [
        ("product", "Leveret"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("program", program),
        ("host", host),
        ("pid", pid.as_str()),
        ("role", role),
    ];
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    said.into_iter()
        .fold(properties, |properties, (key, value)| properties.with_client_property(key.into(), value.into()))
}

/// The addresses of the settings.
pub(super) fn parse_addresses(config: &Config) -> Result<Vec<Address>, Error> {
    let addresses: Vec<_> =
        config.addresses().map(|address| Address::parse(address, config.heartbeat)).collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(Error::Setting { setting: "AMQP_URL", reason: "names no broker".to_owned() });
    }
    Ok(addresses)
}
