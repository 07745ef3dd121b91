//! A transport between the socket and lapin that lets through only what lapin survives (see [`screen`]), notes when the
//! broker was heard last, and can be ended from outside.

mod last_words;
mod screen;

use std::{
    io, mem,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    uri::{AMQPScheme, AMQPUri},
};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(crate) use self::screen::{FrameStart, Screen, can_be_parsed};
use self::{last_words::LastWords, screen::FRAME_START};
use super::{probe::Server, tls::Tls};
use crate::message::millis;

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
    /// As `Connection::connect_uri`, over this line; once.
    pub(super) async fn connect(
        &self,
        uri: AMQPUri,
        tls: &Tls,
        properties: ConnectionProperties,
    ) -> lapin::Result<Connection> {
        let tokio = Tokio::current();
        let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), ShieldedReactor(tokio.clone())));
        let plain = Runtime::new(tokio);
        let (abandoned, heard, server) = (self.abandoned.clone(), Arc::clone(&self.heard), Arc::clone(&self.server));
        let tls = tls.clone();
        let open = async move |uri: AMQPUri, _: Runtime<_>| {
            let connecting = socket(&uri, &tls, &plain, &server);
            let stream = abandoned.run_until_cancelled(connecting).await.unwrap_or_else(|| Err(given_up()))?;
            let screen = Screen::new(Arc::clone(&server));
            Ok(AsyncTcpStream::Plain(Shielded::new(stream, screen, Arc::clone(&heard), &abandoned)))
        };
        Connection::connector(uri, runtime, open, properties).await
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

/// A connection to the address, and with `amqps://` its handshake.
async fn socket(
    uri: &AMQPUri,
    tls: &Tls,
    runtime: &Runtime<Tokio>,
    greeting: &Arc<OnceLock<Server>>,
) -> io::Result<Socket> {
    let limit = uri.query.connection_timeout.map_or(Duration::MAX, Duration::from_millis);
    let place = runtime.to_socket_addrs((uri.authority.host.clone(), uri.authority.port));
    let connected = timeout(limit, runtime.tcp_connect(place)).await;
    let stream = connected.unwrap_or_else(|_| Err(no_connection(limit)))?;
    match uri.scheme {
        AMQPScheme::AMQP => Ok(AsyncTcpStream::Plain(LastWords::new(stream, None))),
        AMQPScheme::AMQPS => {
            let stream = AsyncTcpStream::Plain(LastWords::new(stream, Some(Arc::clone(greeting))));
            tls.shake_hands(stream, &uri.authority.host).await
        }
    }
}

fn no_connection(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no TCP connection within {limit:?}"))
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "given up")
}

pub(super) type Socket = AsyncTcpStream<LastWords<<Tokio as Reactor>::TcpStream>>;

/// Tokio, with streams that are shielded.
#[derive(Clone, Debug)]
struct ShieldedReactor(Tokio);

impl Reactor for ShieldedReactor {
    type TcpStream = Shielded<Socket>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Nobody calls this: lapin connects through [`Line::connect`]'s closure. The bound on the handle cannot be named here.
    #[expect(refining_impl_trait, reason = "the stream that is never returned needs some type")]
    fn register<H: io::Read + io::Write + Send + 'static>(&self, _socket: H) -> io::Result<Shielded<Socket>> {
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
            Ok(Shielded::new(stream, Screen::default(), Arc::default(), &CancellationToken::new()))
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
