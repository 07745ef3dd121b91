//! The public handle: the connections to a broker and the state of the process beside them.

use std::{fmt, sync::Arc};

use crate::{
    config::Config,
    error::Error,
    message::Message,
    observe::{health::Health, log_throttle::LogThrottle, metrics::Metrics},
    request::replies::Replies,
    topology::Target,
    tracking::{emitter::StatusEmitter, results::Results},
    transport::{SendError, Transport, clock::Now},
};
#[cfg(feature = "worker")]
use crate::{shutdown, tracking::cancellations::Cancellations};

/// A handle on a message broker: RabbitMQ, or one in this process's memory.
///
/// Clones share the connections. Dropping the last clone closes them; [`close`](Self::close) does so in order.
///
/// The connections belong to the tokio runtime of their first use. That runtime must be running for every other use
/// too. After it ends, the next use reconnects on its own runtime.
///
/// ```no_run
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use leveret::{Broker, Config};
///
/// let broker = Broker::amqp(Config { amqp_url: vec!["amqp://guest:guest@localhost/%2f".into()], ..Config::default() })?;
/// let publisher = broker.publisher();
/// # let _ = publisher;
/// broker.close().await;
///
/// let forgetful = Broker::memory();
/// let strict = Broker::memory_with(Config { payload_limit: 1024, ..Config::default() });
/// assert!(strict.config().payload_limit < forgetful.config().payload_limit);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    config: Config,
    emitter: StatusEmitter,
    #[cfg(feature = "worker")]
    cancellations: Cancellations,
    results: Results,
    replies: Replies,
}

impl Broker {
    /// Returns a handle on RabbitMQ. It connects at its first use, and reconnects indefinitely after each loss.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] for an address that is not an AMQP URL or has an invalid parameter. [`Error::TlsNotCompiled`] for
    /// `amqps://` without the feature `tls`. [`Error::Setting`] for invalid settings, and for an unreadable TLS file.
    pub fn amqp(config: Config) -> Result<Self, Error> {
        Ok(Self::new(Transport::amqp(&config)?, config))
    }

    /// Returns a broker in this process's memory, for tests and demonstrations. It loses everything when the process
    /// ends.
    ///
    /// It keeps the promises that a broker in memory can keep: delivery at least once, redelivery of unsettled jobs,
    /// delays, dead letters. It uses tokio's time, so tests may pause and advance it.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[must_use]
    pub fn memory() -> Self {
        Self::memory_with(Config::default())
    }

    /// Like [`memory`](Self::memory), with your own settings.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the metric names are constants, checked by every test")]
    pub fn memory_with(config: Config) -> Self {
        tracing::info!("using the in-memory broker: jobs are forgotten when this process ends");
        Self::new(Transport::memory(&config).expect("metric names are valid"), config)
    }

    fn new(transport: Transport, config: Config) -> Self {
        #[cfg(feature = "worker")]
        shutdown::note(config.stop_timeouts().process, transport.metrics());
        let shared = Shared {
            transport,
            config,
            emitter: StatusEmitter::default(),
            #[cfg(feature = "worker")]
            cancellations: Cancellations::default(),
            results: Results::default(),
            replies: Replies::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns whether this is an in-memory broker ([`memory`](Self::memory)).
    ///
    /// ```
    /// assert!(leveret::Broker::memory().is_memory());
    /// ```
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.transport().system() == "memory"
    }

    /// Returns the settings of this handle.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Waits for the outstanding confirms, then closes the connections.
    ///
    /// Later publishes return [`PublishError::Closed`](crate::PublishError::Closed).
    pub async fn close(&self) {
        self.shared.transport.close().await;
    }

    /// Returns the registry of this handle, for your own metrics beside Leveret's. Their names get the prefix
    /// `leveret_`.
    ///
    /// ```
    /// let broker = leveret::Broker::amqp(leveret::Config::default())?;
    /// let orders = prometheus::IntCounter::new("orders_total", "Orders received")?;
    /// broker.registry().register(Box::new(orders.clone()))?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn registry(&self) -> &prometheus::Registry {
        self.metrics().registry()
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        self.shared.transport.metrics()
    }

    pub(crate) fn log_throttle(&self) -> &LogThrottle {
        self.shared.transport.log_throttle()
    }

    pub(crate) fn health(&self) -> &Health {
        self.shared.transport.health()
    }

    pub(crate) fn emitter(&self) -> &StatusEmitter {
        &self.shared.emitter
    }

    #[cfg(feature = "worker")]
    pub(crate) fn cancellations(&self) -> &Cancellations {
        &self.shared.cancellations
    }

    pub(crate) fn results(&self) -> &Results {
        &self.shared.results
    }

    pub(crate) fn replies(&self) -> &Replies {
        &self.shared.replies
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// Returns the milliseconds since the epoch, on the clock of this broker's delays.
    pub(crate) fn now_ms(&self) -> u64 {
        self.shared.transport.now_ms()
    }

    pub(crate) fn now(&self) -> Now {
        self.shared.transport.now()
    }

    pub(crate) async fn send(&self, target: &Target, message: Box<Message>, fail_fast: bool) -> Result<(), SendError> {
        self.shared.transport.send(target, message, fail_fast).await
    }

    /// Returns the metrics of this handle in Prometheus' text format, for programs that serve them.
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

    /// Returns the known reason why the broker accepts no publishes now: it is unreachable or blocked.
    ///
    /// ```
    /// # #[tokio::main] async fn main() {
    /// assert_eq!(leveret::Broker::memory().trouble(), None);
    /// # }
    /// ```
    #[must_use]
    pub fn trouble(&self) -> Option<&'static str> {
        if self.metrics().connected.get() == 0 {
            return Some("the broker is unreachable");
        }
        (self.metrics().blocked.get() > 0).then_some("the broker blocks publishes")
    }
}

impl Broker {
    /// Returns the reason why this process is not ready, as `/readyz` shows it: no worker runs on this handle, a queue or
    /// subscription of one has no consumer yet, or one is stopping.
    ///
    /// ```
    /// # #[tokio::main] async fn main() {
    /// let reason = leveret::Broker::memory().unready();
    /// assert!(reason.is_some_and(|reason| reason.starts_with("no worker runs")));
    /// # }
    /// ```
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        self.health().unready()
    }

    /// Returns whether a worker on this handle consumes from a queue or subscription. An event that is emitted before is not
    /// in the subscription. Unlike [`unready`](Self::unready) it does not depend on other workers on the handle.
    ///
    /// ```
    /// # #[tokio::main] async fn main() {
    /// assert!(!leveret::Broker::memory().consumes("email"));
    /// # }
    /// ```
    #[must_use]
    pub fn consumes(&self, queue: &str) -> bool {
        self.health().consumes(queue)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = self.shared.transport.system();
        f.debug_struct("Broker").field("backend", &backend).field("config", &self.shared.config).finish()
    }
}
