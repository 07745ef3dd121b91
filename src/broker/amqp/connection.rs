//! One connection to RabbitMQ, kept up for ever: a fresh `lapin::Connection` after each loss.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind, Event,
    uri::{AMQPScheme, AMQPUri},
};
use tokio::{
    sync::{OnceCell, SetOnce, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{FRAME_MAX, Setup, shield::Line, tls};
use crate::{broker::SendError, error::Error};

/// For the TCP connection alone; TLS and the handshake have [`Patience`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(10);
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// How often a connection is looked at that has reported nothing.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A connection that is up, until `lost` is cancelled.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) connection: Connection,
    /// How long the broker may be silent; none if the address asks for no heartbeat.
    longest_silence: Option<Duration>,
    line: Line,
    pub(super) lost: CancellationToken,
    /// The broker's reason for taking no publishes now.
    pub(super) blocked: watch::Sender<Option<String>>,
    /// Why it is to be given up for a fresh one.
    worn_out: SetOnce<String>,
    /// The index of its address.
    address: usize,
}

impl Up {
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
        drop(self.worn_out.set(format!("given up: {reason}")));
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

/// The state of a [`Link`]: up, or down for this reason.
pub(super) type State = Result<Arc<Up>, String>;

/// The handle was closed.
#[derive(Debug)]
pub(super) struct Closed;

/// A connection that is made anew after each loss, from its first use until the handle is closed.
pub(super) struct Link {
    role: &'static str,
    setup: Arc<Setup>,
    state: watch::Sender<State>,
    started: OnceCell<tokio::task::JoinHandle<()>>,
}

impl Link {
    pub(super) fn new(role: &'static str, setup: Arc<Setup>) -> Self {
        let (state, _) = watch::channel(Err(NOT_YET.to_owned()));
        Self { role, setup, state, started: OnceCell::new() }
    }

    /// Waits for the connection.
    pub(super) async fn up(&self) -> Result<Arc<Up>, Closed> {
        let mut state = self.watch().await;
        tokio::select! {
            () = self.setup.closed.cancelled() => Err(Closed),
            up = state.wait_for(Result::is_ok) => up.ok().and_then(|up| up.clone().ok()).ok_or(Closed),
        }
    }

    /// The state now and its changes.
    pub(super) async fn watch(&self) -> watch::Receiver<State> {
        self.started
            .get_or_init(async || tokio::spawn(keep_up(self.role, Arc::clone(&self.setup), self.state.clone())))
            .await;
        self.state.subscribe()
    }

    /// The state once the first attempt to connect is over.
    pub(super) async fn first_state(&self) -> State {
        let mut state = self.watch().await;
        let known = state.wait_for(|state| !matches!(state, Err(reason) if reason == NOT_YET)).await;
        known.map_or_else(|_| Err(CLOSED.to_owned()), |state| state.clone())
    }

    /// Waits until a closed link has said goodbye to the broker.
    pub(super) async fn closed(&self) {
        if self.started.initialized() {
            let mut state = self.state.subscribe();
            let goodbye = state.wait_for(|state| matches!(state, Err(reason) if reason == CLOSED));
            if tokio::time::timeout(CONNECT_TIMEOUT, goodbye).await.is_err() {
                tracing::debug!(role = self.role, "the broker did not answer the goodbye");
            }
        }
    }
}

const CLOSED: &str = "closed";
const NOT_YET: &str = "not yet connected";

/// How long a handshake may take: short, so that one whose answer was lost on the way is soon begun anew; and longer
/// after each that took too long, for a broker that is merely slow.
struct Patience(Duration);

impl Patience {
    fn grow(&mut self) {
        self.0 = (self.0 * 2).min(LONGEST_PATIENCE);
    }
}

/// Connects, waits for the loss, and begins again.
async fn keep_up(role: &'static str, setup: Arc<Setup>, state: watch::Sender<State>) {
    let (mut delays, mut patience) = (backoff(), Patience(FIRST_PATIENCE));
    let mut first = 0;
    loop {
        let connected = tokio::select! {
            () = setup.closed.cancelled() => break,
            connected = connect(role, &setup, first, &mut patience) => connected,
        };
        match connected {
            Ok(up) => {
                patience = Patience(FIRST_PATIENCE);
                let connected = Instant::now();
                let reason = live(role, &setup, Arc::clone(&up), &state).await;
                // Its node may be one that answers and cannot work, such as one that its cluster has lost.
                first = if up.worn_out.initialized() { up.address + 1 } else { 0 };
                // One that something ends at once must not be made again in a hot loop.
                if connected.elapsed() > SHORT_LIFE {
                    delays = backoff();
                }
                setup.health.away(&reason);
                drop(state.send_replace(Err(reason)));
            }
            Err(reason) => {
                setup.health.away(&reason);
                if setup.quiet.is_news(format!("{role}: {reason}")) {
                    tracing::warn!(role, error = reason, "cannot connect to the broker, trying again");
                }
                drop(state.send_replace(Err(reason)));
            }
        }
        let delay = delays.next().unwrap_or(CONNECT_TIMEOUT);
        tokio::select! {
            () = setup.closed.cancelled() => break,
            () = tokio::time::sleep(delay) => {}
        }
    }
    drop(state.send_replace(Err(CLOSED.to_owned())));
}

/// Up to one second with its jitter, for ever.
fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_millis(500))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Tries every address once, beginning with the one of that index.
async fn connect(role: &'static str, setup: &Setup, first: usize, patience: &mut Patience) -> Result<Arc<Up>, String> {
    let (mut reason, mut silent) = ("no address".to_owned(), false);
    let count = setup.addresses.len();
    for (index, address) in setup.addresses.iter().enumerate().cycle().skip(first % count.max(1)).take(count) {
        let name = format!("leveret {role}");
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let line = Line::default();
        match tokio::time::timeout(patience.0, line.connect(address.clone(), &setup.tls, properties)).await {
            Ok(Ok(connection)) => {
                if let Some(problem) = too_small(&connection) {
                    reason = format!("{}:{}: {problem}", address.authority.host, address.authority.port);
                    drop(tokio::time::timeout(patience.0, connection.close(200, "goodbye".into())).await);
                    continue;
                }
                let (blocked, _) = watch::channel(None);
                let (lost, worn_out) = (CancellationToken::new(), SetOnce::new());
                let seconds = address.query.heartbeat.filter(|seconds| *seconds > 0);
                let longest_silence = seconds.map(|seconds| Duration::from_secs(seconds.into()) * 2);
                return Ok(Arc::new(Up { connection, longest_silence, line, lost, blocked, worn_out, address: index }));
            }
            Ok(Err(error)) => {
                let problem = tls::problem(&error, address, &setup.tls, line.server());
                let error = problem.unwrap_or_else(|| error.to_string());
                reason = format!("{}:{}: {error}", address.authority.host, address.authority.port);
            }
            Err(_) => {
                reason = format!("{}:{}: no answer", address.authority.host, address.authority.port);
                silent = true;
            }
        }
    }
    if silent {
        patience.grow();
    }
    Err(reason)
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
async fn live(role: &'static str, setup: &Setup, up: Arc<Up>, state: &watch::Sender<State>) -> String {
    tracing::info!(role, "connected to the broker");
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
                let silence = up.line.silent_for();
                if up.longest_silence.is_some_and(|longest| silence > longest) {
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
    up.lost.cancel();
    setup.metrics.connected.dec();
    if up.blocked.send_replace(None).is_some() {
        setup.metrics.blocked.dec();
    }
    if reason != CLOSED {
        setup.metrics.reconnects.inc();
        tracing::warn!(role, error = reason, "lost the connection to the broker");
    }
    reason
}

/// Why we end the connection ourselves, once we do.
async fn given_up(setup: &Setup, up: &Up) -> String {
    tokio::select! {
        () = setup.closed.cancelled() => CLOSED.to_owned(),
        reason = up.worn_out.wait() => reason.clone(),
    }
}

async fn goodbye(up: &Up) {
    let close = up.connection.close(200, "goodbye".into());
    if !matches!(tokio::time::timeout(CONNECT_TIMEOUT, close).await, Ok(Ok(()))) {
        tracing::debug!("the connection was gone before it was closed");
    }
}

fn set_blocked(setup: &Setup, up: &Up, reason: Option<String>) {
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

/// The addresses as lapin takes them, with our heartbeat and connect timeout where they name none.
pub(super) fn parse_addresses<'a>(
    urls: impl IntoIterator<Item = &'a String>,
    heartbeat: Duration,
) -> Result<Vec<AMQPUri>, Error> {
    let parse = |url: &String| {
        let wrong = |reason: String| Error::Url { url: without_password(url), reason };
        let mut uri = url.trim().parse::<AMQPUri>().map_err(wrong)?;
        if uri.scheme == AMQPScheme::AMQPS && cfg!(not(feature = "tls")) {
            return Err(Error::TlsNotCompiled { url: without_password(url) });
        }
        let seconds = heartbeat.as_secs().try_into().unwrap_or(u16::MAX);
        uri.query.heartbeat.get_or_insert(seconds);
        let timeout = CONNECT_TIMEOUT.as_millis().try_into().unwrap_or(u64::MAX);
        uri.query.connection_timeout.get_or_insert(timeout);
        uri.query.frame_max = Some(FRAME_MAX);
        Ok(uri)
    };
    let addresses: Vec<_> = urls.into_iter().map(parse).collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(Error::Setting { setting: "AMQP_URL", reason: "names no broker".to_owned() });
    }
    Ok(addresses)
}

/// The address with what stands between the user's name and the host hidden.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let Some((login, place)) = rest.rsplit_once('@') else { return url.to_owned() };
    let user = login.split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:***@{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Vec<AMQPUri>, Error> {
        parse_addresses(&[url.to_owned()], Duration::from_secs(10))
    }

    #[test]
    fn an_address_gets_our_heartbeat_unless_it_names_one() {
        assert_eq!(parse("amqp://h/%2f").unwrap()[0].query.heartbeat, Some(10));
        assert_eq!(parse("amqp://h/%2f?heartbeat=42&frame_max=4096").unwrap()[0].query.heartbeat, Some(42));
        assert_eq!(parse("amqp://h/%2f?frame_max=4096").unwrap()[0].query.frame_max, Some(FRAME_MAX));
    }

    #[test]
    fn a_wrong_address_is_shown_without_its_password() {
        let error = parse("http://guest:hunter2@h").unwrap_err().to_string();
        assert!(error.contains("http://guest:***@h") && !error.contains("hunter2"), "{error}");
        assert!(matches!(parse_addresses(&[], Duration::ZERO), Err(Error::Setting { setting: "AMQP_URL", .. })));
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn amqps_without_tls_compiled_in_is_refused() {
        assert!(matches!(parse("amqps://u:p@h/%2f"), Err(Error::TlsNotCompiled { .. })));
    }
}
