//! The HTTP server of Leveret's programs: `/metrics`, `/livez` and `/readyz` of workers, the API of the server.
//!
//! Resources held by clients are bounded. The head of a request must arrive in time. At the limit of connections, a new
//! connection replaces the one that has been idle for longest, so half-sent requests do not block other clients. If all
//! connections have a request in progress, a few more are accepted only for probes. So an orchestrator does not restart
//! a busy process.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt, io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{
        HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
        header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER},
        uri::Authority,
    },
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::observe::log_throttle::LogThrottle;

/// Paths that are answered on connections beyond the limit.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];
/// Number of connections beyond the limit.
const FOR_PROBES: usize = 8;
/// Buffer of a connection; the head of a request must fit into it.
const BUFFER: usize = 64 * 1024;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds on the resources that clients hold on a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most open connections. A few more are accepted for `/livez`, `/readyz` and `/metrics`.
    pub connections: usize,
    /// Longest time of a connection without a request, or until the head of a request is complete.
    pub idle: Duration,
}

/// Serves until `stop`, then finishes the requests in progress. When it is dropped, it closes all connections.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken) {
    let (open, mut tasks, log_throttle) = (Open::new(limits), JoinSet::new(), LogThrottle::default());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((socket, _)) => match open.enter() {
                Some(slot) => drop(tasks.spawn(answer(socket, slot, routes.clone(), limits, stop.clone()))),
                None => log_throttle.log("full", || {
                    tracing::warn!(
                        connections = limits.connections,
                        "all HTTP connections have a request in progress: refusing others"
                    );
                }),
            },
            // The client closed the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                log_throttle.log(error.to_string(), || {
                    tracing::warn!(%error, "cannot accept HTTP connections, retrying");
                });
                // The cause may be a lack of file descriptors: closing a connection frees one.
                open.make_room();
                stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

async fn answer(socket: TcpStream, slot: Arc<ConnectionSlot>, routes: Router, limits: Limits, stop: CancellationToken) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY: responses may be slightly later");
    }
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: Request<Incoming>| {
        let (busy, routes) = (slot.begin(), routes.clone());
        let slot = &slot;
        async move {
            // Another connection has replaced this one, which is being closed.
            let busy = busy.ok_or(io::ErrorKind::ConnectionAborted)?;
            if slot.for_probes && !PROBES.contains(&request.uri().path()) {
                return Ok::<_, io::Error>(full());
            }
            let answered: Result<_, Infallible> = routes.call(request.map(Body::new)).await;
            let Ok(response) = answered;
            Ok(response.map(|body| Body::new(BusyBody { body, _busy: busy })))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.idle).max_buf_size(BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = slot.closed.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

/// Returns the response to other requests on a connection for probes.
fn full() -> Response<Body> {
    let text = r#"{"type":"urn:leveret:problem:busy","title":"Service Unavailable","status":503,"detail":"all connections have a request in progress"}"#;
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The open connections of a server.
#[derive(Debug)]
struct Open {
    limits: Limits,
    connections: Arc<Mutex<Connections>>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    /// For each connection, the start of its idle time, if it is idle, and the token that closes it.
    open: HashMap<u64, (Option<Instant>, CancellationToken)>,
}

/// The slot of one connection.
struct ConnectionSlot {
    connections: Arc<Mutex<Connections>>,
    number: u64,
    for_probes: bool,
    closed: CancellationToken,
}

/// A request in progress, until its response is sent.
struct Busy(Arc<ConnectionSlot>);

impl Open {
    fn new(limits: Limits) -> Self {
        Self { limits, connections: Arc::default() }
    }

    /// Returns the slot of a new connection; `None` if there is none even for probes.
    fn enter(&self) -> Option<Arc<ConnectionSlot>> {
        let mut connections = lock(&self.connections);
        if connections.open.len() >= self.limits.connections {
            connections.close_idlest();
        }
        let taken = connections.open.len();
        if taken >= self.limits.connections + FOR_PROBES {
            return None;
        }
        connections.next += 1;
        let (number, closed) = (connections.next, CancellationToken::new());
        connections.open.insert(number, (Some(Instant::now()), closed.clone()));
        let for_probes = taken >= self.limits.connections;
        Some(Arc::new(ConnectionSlot { connections: Arc::clone(&self.connections), number, for_probes, closed }))
    }

    fn make_room(&self) {
        lock(&self.connections).close_idlest();
    }
}

impl Connections {
    /// Closes the connection that has been idle for longest.
    fn close_idlest(&mut self) {
        let idle = self.open.iter().filter_map(|(number, (since, _))| Some(((*since)?, *number)));
        if let Some((_, closed)) = idle.min().and_then(|(_, number)| self.open.remove(&number)) {
            closed.cancel();
        }
    }
}

impl ConnectionSlot {
    /// Records the start of a request; `None` if the connection is being closed.
    fn begin(self: &Arc<Self>) -> Option<Busy> {
        lock(&self.connections).open.get_mut(&self.number)?.0 = None;
        Some(Busy(Arc::clone(self)))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.connections).open.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some((since, _)) = lock(&self.0.connections).open.get_mut(&self.0.number) {
            *since = Some(Instant::now());
        }
    }
}

fn lock(connections: &Mutex<Connections>) -> MutexGuard<'_, Connections> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of a response, which keeps its request in progress until it is sent.
struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for ConnectionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSlot").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Returns the host that a request names, with its port.
#[must_use]
pub fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.or(uri.authority().map(Authority::as_str))
}

/// Returns whether a host, with or without a port, names this machine in a way that no other host can. A web page in a
/// local browser can send requests under its own name (DNS rebinding).
#[must_use]
pub fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host();
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
