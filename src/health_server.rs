//! The server of `/metrics`, `/livez` and `/readyz`, on a thread of its own.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{broker::Broker, error::Error, http, observe::health::Health};

/// Limits for a few probes and scrapers, which leave most file descriptors to the process.
const LIMITS: http::Limits = http::Limits { connections: 32, idle: Duration::from_secs(30) };

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
    /// Returns the address that it listens on, with the chosen port if the setting's port was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Broker {
    /// Serves `/metrics`, `/livez` and `/readyz` for everything on this handle, at the address of its settings.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if the process cannot listen on the address.
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

async fn serve(listener: TcpListener, routes: Router) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => http::serve(listener, routes, LIMITS, CancellationToken::new()).await,
        Err(error) => tracing::error!(%error, "the health server ended"),
    }
}

fn routes(health: Health, address: SocketAddr) -> Router {
    let routes = all_routes(health);
    // Elsewhere, scrapers use any name of the host.
    if address.ip().is_loopback() { routes.layer(from_fn(only_local)) } else { routes }
}

/// Refuses requests from web pages in a local browser, which name a foreign host.
async fn only_local(request: Request, next: Next) -> Response {
    if http::host(request.uri(), request.headers()).is_some_and(http::is_local) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "this address serves only the hosts localhost, 127.0.0.1 and [::1]\n").into_response()
}

fn all_routes(health: Health) -> Router {
    let (live, ready) = (health.clone(), health.clone());
    Router::new()
        .route("/metrics", get(async move || metrics(&health)))
        .route("/livez", get(async move || livez(&live)))
        .route("/readyz", get(async move || readyz(&ready)))
}

fn metrics(health: &Health) -> Response {
    match health.metrics().render() {
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
    async fn on_loopback_requests_for_a_foreign_host_are_refused() {
        let server = serve_at([127, 0, 0, 1]);
        for host in ["Host: localhost\r\n", "Host: 127.0.0.1:9464\r\n", "Host: [::1]\r\n"] {
            assert!(get(&server, host).await.starts_with("HTTP/1.1 200"), "{host}");
        }
        for host in ["Host: evil.example\r\n", "Host: evil.example:9464\r\n", ""] {
            let answer = get(&server, host).await;
            assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("leveret_"), "{host}: {answer}");
        }
        // Off loopback, scrapers use any name of the host.
        assert!(get(&serve_at([0, 0, 0, 0]), "Host: worker-1:9464\r\n").await.starts_with("HTTP/1.1 200"));
    }
}
