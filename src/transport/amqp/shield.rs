//! A transport between the socket and lapin that lets through only what lapin survives (see [`screen`]), notes when the
//! broker was heard last, and can be ended from outside.

mod dial;
mod last_words;
mod login;
mod screen;

use std::{
    io, mem,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, uri::AMQPUri};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(crate) use self::screen::{FrameStart, Screen, can_be_parsed};
use self::{
    last_words::LastWords,
    login::{Login, NoSecrets},
    screen::FRAME_START,
};
use crate::message::millis;
use crate::transport::amqp::{Address, probe::Server, tls::Tls};

/// Bytes taken from the socket at a time; also how much is moved at most for a frame that is replaced.
const CHUNK: usize = 64 * 1024;

/// The line of one connection to the broker, between the socket and lapin.
///
/// Dropped, it ends the socket and lapin's thread, which would else wait for ever for a broker that is silent.
#[derive(Debug, Default)]
pub(super) struct Line {
    abandoned: CancellationToken,
    heard: Arc<Heard>,
    server: Arc<OnceLock<Server>>,
}

impl Line {
    /// Connects to the broker over this line; once. Each part of TLS and AMQP may take `patience`.
    pub(super) async fn connect(
        &self,
        address: &Address,
        tls: &Tls,
        properties: ConnectionProperties,
        patience: Duration,
    ) -> Result<(Connection, SocketAddr), Failure> {
        let tokio = Tokio::current();
        let addresses = dial::lookup(&address.host, address.port).await.map_err(Failure::Unreachable)?;
        let connecting = dial::first(&addresses, address.connect_timeout, |address| tokio.tcp_connect_addr(address));
        let (stream, peer) = connecting.await.map_err(Failure::Unreachable)?;
        let silent = |part| move |_| Failure::Silent(format!("{part} with {peer}: no answer within {patience:?}"));
        let socket = if address.tls {
            let stream = AsyncTcpStream::Plain(LastWords::new(stream, Some(Arc::clone(&self.server))));
            let shaken = timeout(patience, tls.shake_hands(stream, &address.host)).await;
            shaken.map_err(silent("TLS handshake"))?.map_err(Failure::Tls)?
        } else {
            AsyncTcpStream::Plain(LastWords::new(stream, None))
        };
        let connecting = self.shake_hands(socket, address, properties);
        let connected = timeout(patience, connecting).await.map_err(silent("AMQP handshake"))?;
        Ok((connected.map_err(Failure::Amqp)?, peer))
    }

    /// The AMQP handshake, by lapin.
    async fn shake_hands(
        &self,
        socket: Socket,
        address: &Address,
        properties: ConnectionProperties,
    ) -> lapin::Result<Connection> {
        let tokio = Tokio::current();
        let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), ShieldedReactor(tokio)));
        let socket = Login::new(socket, address.login());
        let screen = Screen::new(Arc::clone(&self.server));
        let stream = Shielded::new(socket, screen, Arc::clone(&self.heard), &self.abandoned);
        let stream = Mutex::new(Some(AsyncTcpStream::Plain(stream)));
        let taken = async move |_: AMQPUri, _: Runtime<_>| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.ok_or_else(|| lapin::Error::from(given_up()))
        };
        let properties = properties.with_auth_provider(NoSecrets(address.mechanism));
        Connection::connector(address.uri(), runtime, taken, properties).await
    }

    /// How long nothing has come in, not even a heartbeat.
    pub(super) fn silent_for(&self) -> Duration {
        self.heard.since()
    }

    /// What the broker says of itself, also when it refuses the login.
    pub(super) fn server(&self) -> Option<&Server> {
        self.server.get()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.abandoned.cancel();
    }
}

/// When something came in last.
#[derive(Debug)]
struct Heard {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Default for Heard {
    fn default() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Heard {
    fn now(&self) {
        self.last.store(millis(self.start.elapsed()), Ordering::Relaxed);
    }

    fn since(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failure {
    /// The name was not resolved, or no address took a connection.
    Unreachable(String),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// There was no answer in time to what was sent.
    Silent(String),
    /// The AMQP handshake failed; the login belongs to it.
    Amqp(lapin::Error),
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "given up")
}

pub(super) type Socket = AsyncTcpStream<LastWords<<Tokio as Reactor>::TcpStream>>;

/// Tokio, with streams that are shielded.
#[derive(Clone, Debug)]
struct ShieldedReactor(Tokio);

impl Reactor for ShieldedReactor {
    type TcpStream = Shielded<Login<Socket>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Nobody calls this: lapin gets its stream from [`Line::shake_hands`]. The bound on the handle cannot be named here.
    #[expect(refining_impl_trait, reason = "the stream that is never returned needs some type")]
    fn register<H: io::Read + io::Write + Send + 'static>(&self, _socket: H) -> io::Result<Shielded<Login<Socket>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move {
            let stream = AsyncTcpStream::Plain(LastWords::new(connecting.await?, None));
            Ok(Shielded::new(
                Login::new(stream, Vec::new()),
                Screen::default(),
                Arc::default(),
                &CancellationToken::new(),
            ))
        }
    }
}

/// A stream whose incoming frames are screened.
#[derive(Debug)]
struct Shielded<T> {
    inner: T,
    inbound: Inbound,
    heard: Arc<Heard>,
    /// Ready once nobody waits for this connection any more.
    abandoned: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T> Shielded<T> {
    fn new(inner: T, screen: Screen, heard: Arc<Heard>, abandoned: &CancellationToken) -> Self {
        let inbound = Inbound { screen, ..Inbound::default() };
        Self { inner, inbound, heard, abandoned: Box::pin(abandoned.clone().cancelled_owned()) }
    }
}

/// What stands between the bytes from the socket and lapin. As long as frames arrive whole and sound, they are screened
/// where lapin wants them and nothing is held.
#[derive(Debug, Default)]
struct Inbound {
    screen: Screen,
    /// What was received and could not be handed on at once: the start of a frame that must be seen whole, or what came
    /// after a frame that was replaced.
    held: Vec<u8>,
    /// How many bytes, of those that are held and those that come next, may be handed on as they are.
    cleared: usize,
}

/// The frame that comes next must not be handed on; this comes instead.
struct Replaced {
    frame: usize,
    by: Vec<u8>,
}

impl Inbound {
    /// Screens what has been received while nothing is held. Returns how much of it is for lapin as it is, and holds the
    /// rest.
    fn pass(&mut self, received: &[u8]) -> usize {
        let replaced = self.clear(received);
        let passed = self.cleared.min(received.len());
        self.cleared -= passed;
        self.held.extend_from_slice(&received[passed..]);
        self.replace(replaced);
        passed
    }

    /// Clears the frames that are complete, up to one that is replaced.
    fn clear(&mut self, bytes: &[u8]) -> Option<Replaced> {
        while let Some(rest) = bytes.get(self.cleared..)
            && let Some(start) = FrameStart::read(rest)
        {
            if self.screen.must_see(start)
                && let Some(by) = self.screen.replacement(rest.get(..start.whole)?)
            {
                return Some(Replaced { frame: start.whole, by });
            }
            self.cleared = self.cleared.saturating_add(start.whole);
        }
        None
    }

    /// Replaces a frame in what is held, and those after it that must be.
    fn replace(&mut self, mut replaced: Option<Replaced>) {
        while let Some(Replaced { frame, by }) = replaced {
            let start = self.cleared;
            self.cleared += by.len();
            drop(self.held.splice(start..start + frame, by));
            replaced = self.clear_held();
        }
    }

    fn clear_held(&mut self) -> Option<Replaced> {
        let held = mem::take(&mut self.held);
        let replaced = self.clear(&held);
        self.held = held;
        replaced
    }

    /// Hands on as much of what is held as fits; 0 if nothing of it may be handed on yet.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let count = self.cleared.min(self.held.len()).min(into.len());
        into[..count].copy_from_slice(&self.held[..count]);
        self.held.drain(..count);
        self.cleared -= count;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        count
    }

    /// Reads on in the frame whose start is held, not past its end, so that nothing is held any more when it is whole.
    fn poll_hold(&mut self, cx: &mut Context<'_>, inner: Pin<&mut impl AsyncRead>) -> Poll<io::Result<usize>> {
        let before = self.held.len();
        let wanted = FrameStart::read(&self.held).map_or(FRAME_START, |start| start.whole);
        self.held.resize(wanted.min(before + CHUNK), 0);
        let read = inner.poll_read(cx, &mut self.held[before..]);
        let received = if let Poll::Ready(Ok(received)) = read { received } else { 0 };
        self.held.truncate(before + received);
        let replaced = self.clear_held();
        self.replace(replaced);
        read
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Shielded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { inner, inbound, heard, abandoned } = self.get_mut();
        if abandoned.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(given_up()));
        }
        let most = buffer.len().min(CHUNK);
        loop {
            let count = inbound.take(buffer);
            if count > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(count));
            }
            let inner = Pin::new(&mut *inner);
            let (received, passed) = if inbound.held.is_empty() {
                let received = ready!(inner.poll_read(cx, &mut buffer[..most]))?;
                (received, inbound.pass(&buffer[..received]))
            } else {
                (ready!(inbound.poll_hold(cx, inner))?, 0)
            };
            if received == 0 {
                return Poll::Ready(Ok(0));
            }
            heard.now();
            if passed > 0 {
                return Poll::Ready(Ok(passed));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Shielded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
#[path = "shield/stream_tests.rs"]
mod tests;
