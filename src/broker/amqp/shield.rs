//! A transport between the socket and lapin that lets through only what lapin survives (see [`screen`]), notes when the
//! broker was heard last, and can be ended from outside.

mod screen;

use std::{
    io,
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
use futures_util::{FutureExt, Stream};
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt, TLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(crate) use self::screen::{FrameStart, Screen};
use super::probe::Server;
use crate::message::millis;

/// Bytes taken from the socket at a time.
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
    pub(super) async fn connect(&self, uri: AMQPUri, properties: ConnectionProperties) -> lapin::Result<Connection> {
        let tokio = Tokio::current();
        let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), ShieldedReactor(tokio.clone())));
        let plain = Runtime::new(tokio);
        let (abandoned, heard, server) = (self.abandoned.clone(), Arc::clone(&self.heard), Arc::clone(&self.server));
        let open = async move |uri: AMQPUri, _: Runtime<_>| {
            // With TLS its handshake is within, which a slow broker may take longer for.
            let limit = uri.query.connection_timeout.filter(|_| uri.scheme == AMQPScheme::AMQP);
            let limit = limit.map_or(Duration::MAX, Duration::from_millis);
            let connecting = timeout(limit, uri.connect_with_config_async(TLSConfig::default(), &plain));
            let connecting = connecting.map(|connected| connected.unwrap_or_else(|_| Err(no_connection(limit))));
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

fn no_connection(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no TCP connection within {limit:?}"))
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "given up")
}

type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

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
            let stream = AsyncTcpStream::Plain(connecting.await?);
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

/// Bytes on their way from the socket to lapin.
#[derive(Debug, Default)]
struct Inbound {
    screen: Screen,
    /// What was received, up to `end`; room for more beyond it.
    bytes: Vec<u8>,
    end: usize,
    /// How many bytes have been handed on.
    taken: usize,
    /// Up to where bytes may be handed on; past `end` within a long frame that needs no screening.
    cleared: usize,
}

impl Inbound {
    /// Screens the frames that are complete.
    fn examine(&mut self) {
        while let Some(rest) = self.bytes[..self.end].get(self.cleared..)
            && let Some(start) = FrameStart::read(rest)
        {
            let mut whole = start.whole;
            if self.screen.must_see(start) {
                let Some(frame) = rest.get(..whole) else { break };
                if let Some(replacement) = self.screen.replacement(frame) {
                    let replaced = self.cleared..self.cleared + whole;
                    self.end = self.end - whole + replacement.len();
                    whole = replacement.len();
                    drop(self.bytes.splice(replaced, replacement));
                }
            }
            self.cleared = self.cleared.saturating_add(whole);
        }
    }

    /// Hands on as much as fits; 0 if nothing may be handed on yet.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let cleared = &self.bytes[self.taken..self.cleared.min(self.end)];
        let count = cleared.len().min(into.len());
        into[..count].copy_from_slice(&cleared[..count]);
        self.taken += count;
        count
    }

    /// Room for more, after what has not been handed on.
    fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.taken..self.end, 0);
        self.end -= self.taken;
        self.cleared -= self.taken;
        self.taken = 0;
        if self.bytes.len() < self.end + CHUNK {
            self.bytes.resize(self.end + CHUNK, 0);
        }
        &mut self.bytes[self.end..]
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Shielded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { inner, inbound, heard, abandoned } = self.get_mut();
        if abandoned.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(given_up()));
        }
        loop {
            let count = inbound.take(buffer);
            if count > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(count));
            }
            let received = ready!(Pin::new(&mut *inner).poll_read(cx, inbound.room()))?;
            if received == 0 {
                return Poll::Ready(Ok(0));
            }
            heard.now();
            inbound.end += received;
            inbound.examine();
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
