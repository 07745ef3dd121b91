//! How Leveret's programs answer HTTP: `/metrics`, `/livez` and `/readyz` of workers, the API of the server.
//!
//! What clients can hold is bounded. The head of a request has to come in time. At the limit of connections a new one takes
//! the place of the one that has been without a request for longest: half-sent requests keep nobody out. If all have a
//! request under way, some more are taken for probes alone, so that an orchestrator does not restart a process because it
//! is busy.

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

/// What is answered on the connections beyond the limit.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];
/// How many of those there are.
const FOR_PROBES: usize = 8;
/// The buffer of a connection, which its request's head has to fit into.
const BUFFER: usize = 64 * 1024;
/// The wait after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// What clients can hold of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that may be open. Some more are taken for `/livez`, `/readyz` and `/metrics`.
    pub connections: usize,
    /// How long a connection may be without a request, or send the head of one.
    pub idle: Duration,
}

/// Answers until `stop`, and then until requests under way have their answers. Dropped, it closes all connections.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken) {
    let (open, mut tasks, log_throttle) = (Open::new(limits), JoinSet::new(), LogThrottle::default());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((socket, _)) => match open.enter() {
                Some(place) => drop(tasks.spawn(answer(socket, place, routes.clone(), limits, stop.clone()))),
                None if log_throttle.should_log("full") => tracing::warn!(
                    connections = limits.connections,
                    "all HTTP connections have a request under way: refusing others"
                ),
                None => {}
            },
            // The client has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if log_throttle.should_log(error.to_string()) {
                    tracing::warn!(%error, "cannot accept HTTP connections, trying again");
                }
                // Perhaps for want of files: another connection makes room.
                open.make_room();
                stop.run_until_cancelled(sleep(PAUSE)).await;
            }
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

async fn answer(socket: TcpStream, place: Arc<Place>, routes: Router, limits: Limits, stop: CancellationToken) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "answers may come a little later");
    }
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: Request<Incoming>| {
        let (busy, routes) = (place.begin(), routes.clone());
        let place = &place;
        async move {
            // Another connection has its place: it is being closed.
            let busy = busy.ok_or(io::ErrorKind::ConnectionAborted)?;
            if place.for_probes && !PROBES.contains(&request.uri().path()) {
                return Ok::<_, io::Error>(full());
            }
            let answered: Result<_, Infallible> = routes.call(request.map(Body::new)).await;
            let Ok(response) = answered;
            Ok(response.map(|body| Body::new(Answer { body, _busy: busy })))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.idle).max_buf_size(BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = place.closed.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

/// Of a connection that is for probes, to any other request.
fn full() -> Response<Body> {
    let text = r#"{"type":"urn:leveret:problem:busy","title":"Service Unavailable","status":503,"detail":"all connections have a request under way"}"#;
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The connections that are open.
#[derive(Debug)]
struct Open {
    limits: Limits,
    places: Arc<Mutex<KeyedSemaphore>>,
}

#[derive(Debug, Default)]
struct KeyedSemaphore {
    next: u64,
    /// Since when each has been without a request, if it is; and what closes it.
    open: HashMap<u64, (Option<Instant>, CancellationToken)>,
}

/// That of one connection.
struct Place {
    places: Arc<Mutex<KeyedSemaphore>>,
    number: u64,
    for_probes: bool,
    closed: CancellationToken,
}

/// A request under way, until its answer has left.
struct Busy(Arc<Place>);

impl Open {
    fn new(limits: Limits) -> Self {
        Self { limits, places: Arc::default() }
    }

    /// The place of a new connection; none if there is none even for probes.
    fn enter(&self) -> Option<Arc<Place>> {
        let mut places = lock(&self.places);
        if places.open.len() >= self.limits.connections {
            places.close_idlest();
        }
        let taken = places.open.len();
        if taken >= self.limits.connections + FOR_PROBES {
            return None;
        }
        places.next += 1;
        let (number, closed) = (places.next, CancellationToken::new());
        places.open.insert(number, (Some(Instant::now()), closed.clone()));
        let for_probes = taken >= self.limits.connections;
        Some(Arc::new(Place { places: Arc::clone(&self.places), number, for_probes, closed }))
    }

    fn make_room(&self) {
        lock(&self.places).close_idlest();
    }
}

impl KeyedSemaphore {
    /// Closes the connection that has been without a request for longest.
    fn close_idlest(&mut self) {
        let idle = self.open.iter().filter_map(|(number, (since, _))| Some(((*since)?, *number)));
        if let Some((_, closed)) = idle.min().and_then(|(_, number)| self.open.remove(&number)) {
            closed.cancel();
        }
    }
}

impl Place {
    /// Notes that a request has come; none if the connection is being closed.
    fn begin(self: &Arc<Self>) -> Option<Busy> {
        lock(&self.places).open.get_mut(&self.number)?.0 = None;
        Some(Busy(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places).open.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some((since, _)) = lock(&self.0.places).open.get_mut(&self.0.number) {
            *since = Some(Instant::now());
        }
    }
}

fn lock(places: &Mutex<KeyedSemaphore>) -> MutexGuard<'_, KeyedSemaphore> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of an answer, whose request is under way until it has left.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answer {
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

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The host that a request asks for, with its port.
#[must_use]
pub fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.or(uri.authority().map(Authority::as_str))
}

/// Whether a host, with a port or without, is this machine itself by a name that no other can take. A web page that is shown
/// by a browser here can send requests under a name of its own (DNS rebinding).
#[must_use]
pub fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host();
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
