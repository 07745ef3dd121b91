//! The connection of lapin through the guard.

use std::{
    future, io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use amq_protocol::auth::Credentials;
use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_util::Stream;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    uri::{AMQPScheme, AMQPUri},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    deferred_close::DeferredClose,
    dial,
    error::ConnectError,
    filter::{FRAME_MAX, FrameFilter, Markers},
    liveness::Liveness,
    login::{Login, NoSecrets},
    server::ServerProperties,
    stream::{GuardedStream, abandoned},
};

/// The default limit of each TCP connection. A lost SYN is sent again after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The options of [`connect`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The time limit of the TLS handshake, and again of the AMQP handshake with the login. Default: 10 seconds.
    pub handshake_timeout: Duration,
    /// The headers of a message whose own headers cannot be read.
    pub markers: Markers,
    /// The certificates for `amqps://`. Default: the CAs of the system, and no client certificate.
    #[cfg(feature = "tls")]
    pub tls: crate::TlsFiles,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            markers: Markers::default(),
            #[cfg(feature = "tls")]
            tls: crate::TlsFiles::default(),
        }
    }
}

/// The guard of one connection.
///
/// Keep it as long as the connection. Its drop closes the socket and ends lapin's thread, which would otherwise wait
/// for a silent broker indefinitely.
#[derive(Debug)]
#[must_use = "its drop ends the connection"]
pub struct Guard {
    abandoned: CancellationToken,
    liveness: Arc<Liveness>,
    server: Arc<OnceLock<ServerProperties>>,
    peer: SocketAddr,
}

impl Guard {
    /// The address of the broker that answered.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The time since the last byte from the broker, heartbeats included.
    ///
    /// A broker sends a heartbeat in half the negotiated interval. lapin ends a silent connection as well, up to half an
    /// interval later.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.liveness.silence()
    }

    /// The properties of the broker in its greeting.
    #[must_use]
    pub fn server(&self) -> ServerProperties {
        self.server.get().cloned().unwrap_or_default()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.abandoned.cancel();
    }
}

/// Connects lapin to the broker of this URI through the guard.
///
/// The name lookup is limited to 15 seconds. Each TCP connection is limited to the URI's `connection_timeout` in
/// milliseconds, 2 seconds by default. [`Options`] limits the handshakes. Several addresses of one name are tried in
/// order, 250 ms apart at most. If the returned future is dropped, the socket is closed.
///
/// A URI without `frame_max` counts as one with RabbitMQ's default, 131,072 bytes.
///
/// ```
/// use lapin::{ConnectionProperties, uri::AMQPUri};
/// use lapin_guard::{ConnectError, Options};
///
/// # #[tokio::main] async fn main() {
/// let uri: AMQPUri = "amqp://127.0.0.1:1".parse().unwrap();
/// let connected = lapin_guard::connect(&uri, ConnectionProperties::default(), &Options::default()).await;
/// assert!(matches!(connected, Err(ConnectError::Unreachable(_))));
/// # }
/// ```
///
/// # Errors
///
/// [`ConnectError`], with the part that failed. No error shows the password.
pub async fn connect(
    uri: &AMQPUri,
    properties: ConnectionProperties,
    options: &Options,
) -> Result<(Connection, Guard), ConnectError> {
    let (host, port) = (&uri.authority.host, uri.authority.port);
    let addresses = dial::lookup(host, port).await.map_err(ConnectError::Unreachable)?;
    let (tokio, limit) = (Tokio::current(), uri.query.connection_timeout);
    let limit = limit.map_or(CONNECT_TIMEOUT, Duration::from_millis);
    let dialled = dial::first(&addresses, limit, |address| tokio.tcp_connect_addr(address)).await;
    let (stream, peer) = dialled.map_err(ConnectError::Unreachable)?;
    let guard = Guard { abandoned: CancellationToken::new(), liveness: Arc::default(), server: Arc::default(), peer };
    let limit = options.handshake_timeout;
    let silent = |part| move |_| ConnectError::Silent(format!("{part} with {peer}: no answer within {limit:?}"));
    let socket = if uri.scheme == AMQPScheme::AMQPS {
        let stream = AsyncTcpStream::Plain(DeferredClose::new(stream, Some(Arc::clone(&guard.server))));
        let secured = timeout(limit, secure(stream, host, options)).await;
        secured.map_err(silent("TLS handshake"))?.map_err(|error| ConnectError::of_tls(&error, options))?
    } else {
        AsyncTcpStream::Plain(DeferredClose::new(stream, None))
    };
    let connected = timeout(limit, guard.log_in(socket, uri, properties, options.markers)).await;
    let connected = connected.map_err(silent("AMQP handshake"))?;
    let connection = connected.map_err(|error| ConnectError::of_amqp(error, uri, options, guard.server.get()))?;
    Ok((connection, guard))
}

impl Guard {
    /// Makes lapin do the AMQP handshake.
    async fn log_in(
        &self,
        socket: Socket,
        uri: &AMQPUri,
        properties: ConnectionProperties,
        markers: Markers,
    ) -> lapin::Result<Connection> {
        let mut uri = uri.clone();
        let (user, mechanism) = (&mut uri.authority.userinfo, uri.query.auth_mechanism.unwrap_or_default());
        let credentials = Credentials::new(user.username.as_str().into(), user.password.as_str().into());
        user.password.clear();
        uri.scheme = AMQPScheme::AMQP;
        let frame_max = *uri.query.frame_max.get_or_insert(FRAME_MAX);

        let socket = Login::new(socket, credentials.sasl_auth_string(mechanism).as_bytes().to_vec());
        let filter = FrameFilter::with_server(frame_max, markers, Arc::clone(&self.server));
        let stream = GuardedStream::new(socket, filter, Arc::clone(&self.liveness), &self.abandoned);
        let stream = Mutex::new(Some(AsyncTcpStream::Plain(stream)));
        let connect_once = async move |_: AMQPUri, _: Runtime<_>| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.ok_or_else(|| lapin::Error::from(abandoned()))
        };
        let tokio = Tokio::current();
        let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), GuardedReactor(tokio)));
        Connection::connector(uri, runtime, connect_once, properties.with_auth_provider(NoSecrets(mechanism))).await
    }
}

/// Makes a fresh connection to `host` private.
#[cfg(feature = "tls")]
async fn secure(stream: Socket, host: &str, options: &Options) -> io::Result<Socket> {
    options.tls.shake_hands(stream, host).await
}

/// lapin alone would continue in plaintext.
#[cfg(not(feature = "tls"))]
#[expect(clippy::unused_async, reason = "the same signature as with TLS")]
async fn secure(_: Socket, _: &str, _: &Options) -> io::Result<Socket> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this program was built without lapin-guard's feature `tls`"))
}

pub(crate) type Socket = AsyncTcpStream<DeferredClose<<Tokio as Reactor>::TcpStream>>;

/// Tokio with guarded streams.
#[derive(Clone, Debug)]
struct GuardedReactor(Tokio);

impl Reactor for GuardedReactor {
    type TcpStream = GuardedStream<Login<Socket>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Fails: lapin gets its stream from [`Guard::log_in`]. The trait's bound on the handle cannot be named here.
    #[expect(refining_impl_trait, reason = "the stream that is never returned needs some type")]
    fn register<H: io::Read + io::Write + Send + 'static>(&self, _socket: H) -> io::Result<Self::TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    /// Fails, as [`register`](Self::register) does.
    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
