//! `/metrics`, `/livez` and `/readyz`, answered by a thread of their own.
//!
//! Liveness means that this process can make progress: it fails when the worker's runtime has not run a timer for
//! [`STALLED`], which is what a handler that blocks all its threads looks like. It never asks the broker: restarting a
//! worker does not mend a broker. Readiness means that every wanted consumer is up.

use std::{
    collections::BTreeMap,
    fmt,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::IntGauge;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{broker::Broker, error::Error, http, observe::metrics::Metrics};

/// A runtime that has run no timer for this long is taken for blocked.
const STALLED: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);
/// A few probes and scrapers ask, and leave most files that the process may open to its work.
const LIMITS: http::Limits = http::Limits { connections: 32, idle: Duration::from_secs(30) };

/// What the workers of a process say of themselves.
#[derive(Clone)]
pub(crate) struct Health {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    started: Instant,
    /// Milliseconds after `started` at which the worker's runtime last ran a timer.
    ticked: AtomicU64,
    draining: AtomicU64,
    /// Wanted consumers by name, and whether they are up. More than one may serve a queue.
    consumers: Mutex<BTreeMap<String, Counts>>,
    /// Why there was no connection to the broker the last time that there was none.
    away: Mutex<String>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    wanted: usize,
    up: usize,
}

impl Health {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            metrics,
            started: Instant::now(),
            ticked: AtomicU64::new(0),
            draining: AtomicU64::new(0),
            consumers: Mutex::default(),
            away: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Announces a consumer that should be up until the returned value is dropped.
    pub(crate) fn want(&self, name: &str) -> Wanted {
        self.change(name, |counts| counts.wanted += 1);
        Wanted { health: self.clone(), name: name.to_owned(), up: false }
    }

    /// Notes that a worker drains, until the returned value is dropped.
    pub(crate) fn drain(&self) -> Draining {
        self.shared.draining.fetch_add(1, Ordering::AcqRel);
        Draining(self.clone())
    }

    /// Notes that a settlement cannot be carried out for now, until the returned value is dropped.
    pub(crate) fn stuck(&self) -> Stuck {
        let unconfirmed = self.shared.metrics.unconfirmed.clone();
        unconfirmed.inc();
        Stuck(unconfirmed)
    }

    /// Notes why there is no connection to the broker.
    pub(crate) fn away(&self, reason: &str) {
        reason.clone_into(&mut self.shared.away.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Counts)) {
        let mut consumers = self.shared.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = consumers.entry(name.to_owned()).or_default();
        change(counts);
        let (wanted, up) = self.shared.metrics.consumers(name);
        wanted.set(i64::try_from(counts.wanted).unwrap_or(i64::MAX));
        up.set(i64::try_from(counts.up).unwrap_or(i64::MAX));
    }

    /// What keeps the process from being ready.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.shared.draining.load(Ordering::Acquire) > 0 {
            return Some("draining".to_owned());
        }
        if self.shared.metrics.unconfirmed.get() > 0 {
            return Some("the broker does not confirm retries or dead letters".to_owned());
        }
        let consumers = self.shared.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        if consumers.values().all(|counts| counts.wanted == 0) {
            return Some("no worker runs; a process that has none is to be asked at /livez".to_owned());
        }
        let (name, _) = consumers.iter().find(|(_, counts)| counts.up < counts.wanted)?;
        let away = self.shared.away.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.metrics.connected.get() == 0 && !away.is_empty() {
            return Some(format!("no consumer on queue {name:?}: the broker is away: {away}"));
        }
        Some(format!("no consumer on queue {name:?}"))
    }

    fn stalled(&self) -> bool {
        let ticked = Duration::from_millis(self.shared.ticked.load(Ordering::Acquire));
        self.shared.started.elapsed().saturating_sub(ticked) > STALLED
    }

    async fn tick(self) {
        loop {
            let now = u64::try_from(self.shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.shared.ticked.store(now, Ordering::Release);
            tokio::time::sleep(TICK).await;
        }
    }
}

/// A consumer that should be up.
pub(crate) struct Wanted {
    health: Health,
    name: String,
    up: bool,
}

impl Wanted {
    pub(crate) fn set_up(&mut self, up: bool) {
        if self.up != up {
            self.up = up;
            self.health.change(&self.name, |counts| counts.up = if up { counts.up + 1 } else { counts.up - 1 });
        }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.set_up(false);
        self.health.change(&self.name, |counts| counts.wanted -= 1);
    }
}

/// Keeps the process from being ready until this is dropped.
pub(crate) struct Draining(Health);

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.shared.draining.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Keeps the process from being ready until this is dropped.
pub(crate) struct Stuck(IntGauge);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The running health server; it ends when this is dropped.
///
/// ```no_run
/// # async fn doc(worker: leveret::Worker<()>, broker: leveret::Broker) -> Result<(), leveret::Error> {
/// let _health = broker.serve_health()?;
/// worker.run(&broker, leveret::shutdown_signal()).await
/// # }
/// ```
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    _stop: DropGuard,
}

impl HealthServer {
    /// The address it listens on, with the port that was chosen if the setting's was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Broker {
    /// Serves `/metrics`, `/livez` and `/readyz` of everything on this handle, at the address of its settings.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if the address cannot be had.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    ///
    /// ```no_run
    /// # async fn doc(broker: leveret::Broker) -> Result<(), leveret::Error> {
    /// let health = broker.serve_health()?;
    /// println!("metrics at http://{}/metrics", health.address());
    /// # Ok(()) }
    /// ```
    pub fn serve_health(&self) -> Result<HealthServer, Error> {
        let wanted = self.config().http_addr;
        let failed = |source| Error::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (health, stopped) = (self.health().clone(), stop.clone());
        let ticking = stop.clone();
        let tick = health.clone().tick();
        tokio::spawn(async move { ticking.run_until_cancelled(tick).await });
        std::thread::Builder::new()
            .name("leveret-health".to_owned())
            .spawn(move || runtime.block_on(stopped.run_until_cancelled(serve(listener, routes(health, address)))))
            .map_err(failed)?;
        Ok(HealthServer { address, _stop: stop.drop_guard() })
    }
}

impl Broker {
    /// The metrics of this handle as Prometheus reads them, for programs that serve them themselves.
    ///
    /// ```
    /// # #[tokio::main] async fn main() {
    /// assert!(leveret::Broker::memory().metrics_text().contains("leveret_broker_connected 1"));
    /// # }
    /// ```
    #[must_use]
    pub fn metrics_text(&self) -> String {
        match self.metrics().render() {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }

    /// What keeps the broker from taking publishes now, as far as is known: that it is away, or blocked.
    ///
    /// ```
    /// # #[tokio::main] async fn main() {
    /// assert_eq!(leveret::Broker::memory().trouble(), None);
    /// # }
    /// ```
    #[must_use]
    pub fn trouble(&self) -> Option<&'static str> {
        if self.metrics().connected.get() == 0 {
            return Some("the broker is away");
        }
        (self.metrics().blocked.get() > 0).then_some("the broker takes no publishes now")
    }
}

async fn serve(listener: TcpListener, routes: Router) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => http::serve(listener, routes, LIMITS, CancellationToken::new()).await,
        Err(error) => tracing::error!(%error, "the health server ended"),
    }
}

fn routes(health: Health, address: SocketAddr) -> Router {
    let routes = all_routes(health);
    // Elsewhere a scraper uses whatever name the host has.
    if address.ip().is_loopback() { routes.layer(from_fn(only_local)) } else { routes }
}

/// No web page that a browser on this machine shows may read what is here.
async fn only_local(request: Request, next: Next) -> Response {
    if http::host(request.uri(), request.headers()).is_some_and(http::is_local) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "this address answers to localhost, 127.0.0.1 and [::1] only\n").into_response()
}

fn all_routes(health: Health) -> Router {
    let (live, ready) = (health.clone(), health.clone());
    Router::new()
        .route("/metrics", get(async move || metrics(&health)))
        .route("/livez", get(async move || livez(&live)))
        .route("/readyz", get(async move || readyz(&ready)))
}

fn metrics(health: &Health) -> Response {
    match health.shared.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn livez(health: &Health) -> Response {
    if health.stalled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the runtime is blocked\n").into_response();
    }
    "ok\n".into_response()
}

fn readyz(health: &Health) -> Response {
    match health.unready() {
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
        None => "ok\n".into_response(),
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("unready", &self.unready()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::Config;

    async fn get(server: &HealthServer, host: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", server.address().port())).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn serve_at(address: [u8; 4]) -> HealthServer {
        let config = Config { http_addr: (address, 0).into(), ..Config::default() };
        Broker::memory_with(config).serve_health().unwrap()
    }

    #[tokio::test]
    async fn on_loopback_no_foreign_name_is_answered_to() {
        let server = serve_at([127, 0, 0, 1]);
        for host in ["Host: localhost\r\n", "Host: 127.0.0.1:9464\r\n", "Host: [::1]\r\n"] {
            assert!(get(&server, host).await.starts_with("HTTP/1.1 200"), "{host}");
        }
        for host in ["Host: evil.example\r\n", "Host: evil.example:9464\r\n", ""] {
            let answer = get(&server, host).await;
            assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("leveret_"), "{host}: {answer}");
        }
        // Off loopback a scraper uses whatever name the host has.
        assert!(get(&serve_at([0, 0, 0, 0]), "Host: worker-1:9464\r\n").await.starts_with("HTTP/1.1 200"));
    }
}
