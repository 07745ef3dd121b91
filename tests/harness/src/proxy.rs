//! A TCP proxy between a worker and its broker that breaks on command.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::names::free_port;

/// A loopback address that leads to a broker. It works on the runtime of the test that started it, until dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    accepted: Arc<AtomicUsize>,
    state: watch::Sender<State>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    accepting: bool,
    frozen: bool,
    delay: Duration,
    chunk: Option<NonZeroUsize>,
    /// Grows with every cut; a connection ends when it is no longer what it was at its start.
    cuts: u64,
    /// Grows likewise; a connection leads nowhere from then on.
    strandings: u64,
}

impl Proxy {
    /// Starts a proxy to the host and port of `upstream`, an AMQP URL.
    ///
    /// # Panics
    ///
    /// When `upstream` has no host and port, or no port is free.
    pub async fn start(upstream: &str) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST, upstream).await
    }

    /// As [`Self::start`], on another address of this machine: one end of a [`Cable`](crate::Cable).
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn start_on(host: Ipv4Addr, upstream: &str) -> Self {
        let (before, target, after) = split(upstream).expect("amqp://[user:password@]host:port[/vhost]");
        let place = SocketAddrV4::new(host, free_port());
        let listener = TcpListener::bind(place).await.expect("a free port");
        let state =
            State { accepting: true, frozen: false, delay: Duration::ZERO, chunk: None, cuts: 0, strandings: 0 };
        let (state, watched) = watch::channel(state);
        let mut tasks = JoinSet::new();
        let accepted = Arc::default();
        tasks.spawn(serve(listener, place, target.to_owned(), watched, Arc::clone(&accepted)));
        Self { url: format!("{before}{place}{after}"), accepted, state, _tasks: tasks }
    }

    /// The upstream's URL with the proxy's host and port in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The number of accepted connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Resets all connections, now; new ones are accepted.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Makes all connections silent indefinitely: no byte passes and none is closed. New connections work.
    pub fn strand(&self) {
        self.state.send_modify(|state| state.strandings += 1);
    }

    /// Refuses new connections; those that stand stay.
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.accepting = false);
    }

    /// Accepts connections again after [`Self::refuse`].
    pub fn accept(&self) {
        self.state.send_modify(|state| state.accepting = true);
    }

    /// Lets nothing through and closes nothing, as a network that lost its route.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.frozen = true);
    }

    /// Lets through what was held back since [`Self::freeze`], and all that follows.
    pub fn thaw(&self) {
        self.state.send_modify(|state| state.frozen = false);
    }

    /// Holds back everything read from now on for this time, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Passes on at most this many bytes at a time, one such piece per millisecond and direction; 0 ends it.
    pub fn throttle(&self, bytes: usize) {
        let chunk = NonZeroUsize::new(bytes);
        self.state.send_modify(|state| state.chunk = chunk);
    }
}

/// Splits an address before, at and after `host:port`.
fn split(url: &str) -> Option<(&str, &str, &str)> {
    let scheme = url.find("://")? + 3;
    let end = url[scheme..].find('/').map_or(url.len(), |at| scheme + at);
    let start = url[scheme..end].rfind('@').map_or(scheme, |at| scheme + at + 1);
    let target = &url[start..end];
    target.contains(':').then_some((&url[..start], target, &url[end..]))
}

/// The next action of a listening proxy.
enum Next {
    Client(io::Result<(TcpStream, SocketAddr)>),
    Refuse,
    /// The proxy was dropped.
    End,
}

async fn serve(
    mut listener: TcpListener,
    place: SocketAddrV4,
    target: String,
    mut state: watch::Receiver<State>,
    accepted: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let next = tokio::select! {
            accepted = listener.accept() => Next::Client(accepted),
            refusing = state.wait_for(|state| !state.accepting) => {
                if refusing.is_ok() { Next::Refuse } else { Next::End }
            }
        };
        match next {
            Next::Client(Ok((client, _))) => {
                accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connect(client, target.clone(), state.clone()));
                continue;
            }
            // It is gone again by now.
            Next::Client(Err(_)) => continue,
            Next::End => return,
            Next::Refuse => {}
        }
        // Closed rather than ignored: the kernel itself refuses then.
        drop(listener);
        if state.wait_for(|state| state.accepting).await.is_err() {
            return;
        }
        listener = TcpListener::bind(place).await.expect("the proxy's own port");
    }
}

async fn connect(mut client: TcpStream, target: String, mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    let (forth, back) = (state.clone(), state.clone());
    let relay = async {
        let Ok(mut upstream) = TcpStream::connect(&target).await else {
            return;
        };
        let (from_client, to_client) = client.split();
        let (from_upstream, to_upstream) = upstream.split();
        join(pump(from_client, to_upstream, forth), pump(from_upstream, to_client, back)).await;
    };
    let cut = tokio::select! {
        () = relay => false,
        _ = state.wait_for(|state| state.cuts != cuts) => true,
    };
    if cut {
        // A reset, as from a host that is gone, instead of an orderly end.
        client.set_zero_linger().expect("an option of a TCP socket");
    }
}

/// Copies until the end of `from`, which it passes on as well.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 * 1024];
    let strandings = state.borrow().strandings;
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let delay = state.borrow().delay;
        sleep(delay).await;
        if state.wait_for(|state| !state.frozen && state.strandings == strandings).await.is_err() {
            return;
        }
        let written = match buffer.get(..read) {
            None | Some([]) => return close(to).await,
            Some(bytes) => pass(bytes, &mut to, &state).await,
        };
        if written.is_err() {
            return;
        }
    }
}

async fn close(mut to: impl AsyncWrite + Unpin) {
    // A peer that is gone already needs no farewell.
    to.shutdown().await.ok();
}

async fn pass(mut bytes: &[u8], to: &mut (impl AsyncWrite + Unpin), state: &watch::Receiver<State>) -> io::Result<()> {
    loop {
        let chunk = state.borrow().chunk;
        let Some(chunk) = chunk else {
            return to.write_all(bytes).await;
        };
        let (piece, rest) = bytes.split_at(chunk.get().min(bytes.len()));
        to.write_all(piece).await?;
        if rest.is_empty() {
            return Ok(());
        }
        bytes = rest;
        sleep(Duration::from_millis(1)).await;
    }
}
