//! The server process: it listens, ingests from the broker, and stops gracefully.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use leveret::http::Limits;
use leveret_store::Retention;
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    dead::ingest,
    http,
    options::{Error, Options},
    services::Services,
    tracker,
    waiters::Waiters,
    workflows,
};

/// The time limit for writing remaining status updates when the server stops.
const FLUSHED_WITHIN: Duration = Duration::from_secs(5);
/// Longest time of a connection without a request, or until the head of a request is complete.
const IDLE: Duration = Duration::from_secs(30);

/// A server that listens. It responds once it [runs](Self::run).
///
/// ```no_run
/// # use leveret_serve::{Options, Server, Services};
/// # async fn doc(services: Services) -> Result<(), leveret_serve::Error> {
/// let server = Server::bind(services, Options { listen: ([127, 0, 0, 1], 0).into(), ..Options::default() }).await?;
/// println!("http://{}/api", server.address());
/// server.run(leveret::shutdown_signal()).await
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    services: Services,
    address: SocketAddr,
    listener: TcpListener,
    routes: Router,
    retention: Retention,
    queues: Vec<String>,
    limits: Limits,
    drain: Duration,
}

/// Runs a server until `shutdown`; see the [crate](crate) for an example.
///
/// # Errors
///
/// As [`Server::bind`] and [`Server::run`].
pub async fn serve(
    services: Services,
    options: Options,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    Server::bind(services, options).await?.run(shutdown).await
}

impl Server {
    /// Binds the address. The broker may be unreachable.
    ///
    /// # Errors
    ///
    /// [`Error::TokensNeeded`] off loopback without tokens, [`Error::Listen`] if the address cannot be bound.
    pub async fn bind(mut services: Services, options: Options) -> Result<Self, Error> {
        let Options { listen, default_job, tokens, retention, queues, redact, connections, drain } = options;
        if !listen.ip().is_loopback() && tokens.is_empty() {
            return Err(Error::TokensNeeded { address: listen });
        }
        services.default_job = default_job.map(Into::into);
        services.redact = Arc::new(redact);
        let failed = |source| Error::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        services.workflow_metrics.register()?;
        let routes = http::routes(&services, tokens)?;
        let limits = Limits { connections, idle: IDLE };
        Ok(Self { services, address, listener, routes, retention, queues, limits, drain })
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests and ingests from the broker until `shutdown`. Then running requests finish, and requests that only
    /// wait for tasks end.
    ///
    /// # Errors
    ///
    /// [`Error::Ingest`] if a task that ingests from the broker ends early. The server keeps trying to accept connections,
    /// and to reach the broker and its store.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        let Self { services, address, listener, routes, retention, queues, limits, drain } = self;
        let stop = CancellationToken::new();
        // A dropped server stops its tasks.
        let mut ingesting = JoinSet::new();
        ingesting.spawn(tracker::track(services.clone(), retention, stop.clone()));
        let (broker, store, catalogue) = (services.broker.clone(), services.store.clone(), services.catalogue.clone());
        let ending = services.clone();
        let report: ingest::ReportEnds = Arc::new(move |ends| {
            let services = ending.clone();
            Box::pin(async move { services.end_steps(ends).await })
        });
        ingesting.spawn(ingest::run((broker, store, catalogue), queues, report, stop.clone()));
        ingesting.spawn(workflows::run(services.clone(), stop.clone()));
        let replays = services.dead.clone();
        let resuming = stop.clone();
        let replays = AbortOnDropHandle::new(tokio::spawn(async move { replays.resume_abandoned(resuming).await }));
        tracing::info!(%address, "serving");
        let mut result = Ok(());
        tokio::select! {
            () = answer((listener, routes, limits), services.waiters.clone(), shutdown, drain) => {}
            // These tasks run until `stop`. A server without them would accept jobs and never learn their fate.
            Some(ended) = ingesting.join_next() => result = ended_early(ended),
        }
        stop.cancel();
        let all_ended = async {
            while ingesting.join_next().await.is_some() {}
            replays.await
        };
        if timeout(FLUSHED_WITHIN, all_ended).await.is_err() {
            tracing::warn!("stopping in the middle of a batch: the broker redelivers it");
        }
        services.recorder.flush(FLUSHED_WITHIN).await;
        result
    }
}

fn ended_early(ended: Result<Result<(), leveret::Error>, JoinError>) -> Result<(), Error> {
    match ended {
        Ok(result) => result.map_err(|error| Error::Ingest(error.into())),
        Err(error) => Err(Error::Ingest(error.into())),
    }
}

/// Serves until `shutdown`, then for at most `drain` until running requests have their responses.
async fn answer(
    (listener, routes, limits): (TcpListener, Router, Limits),
    waiters: Waiters,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) {
    let stop = CancellationToken::new();
    tokio::select! {
        () = leveret::http::serve(listener, routes, limits, stop.clone()) => {}
        () = async {
            shutdown.await;
            waiters.close();
            stop.cancel();
            sleep(drain).await;
        } => tracing::warn!("stopping with requests under way"),
    }
}
