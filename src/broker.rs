//! The public handle: the connections to a broker, and what a process keeps beside them.

use std::{fmt, sync::Arc};

use crate::{
    config::Config,
    error::Error,
    message::Message,
    observe::{health::Health, log_throttle::LogThrottle, metrics::Metrics},
    shutdown,
    topology::Target,
    tracking::{cancellations::Cancellations, emitter::StatusEmitter},
    transport::{SendError, Transport, clock::Now},
};

/// A handle on a message broker: RabbitMQ, or one in this process's memory.
///
/// Clones share the connections. Dropping the last clone closes them; [`close`](Self::close) does so in order.
///
/// The connections belong to the tokio runtime of their first use, which must be running for the others too. When it has
/// ended, the next use connects again on its own runtime.
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
    cancellations: Cancellations,
}

impl Broker {
    /// A handle on RabbitMQ. It connects when it is first used, and again for ever after each loss.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] for an address that is not an AMQP one or has a parameter that cannot work, [`Error::TlsNotCompiled`] for `amqps://` without the
    /// feature `tls`, [`Error::Setting`] for settings that cannot work, and for a file of TLS that cannot be read.
    pub fn amqp(config: Config) -> Result<Self, Error> {
        Ok(Self::new(Transport::amqp(&config)?, config))
    }

    /// A broker in this process's memory, for tests and demonstrations: it forgets everything when the process ends.
    ///
    /// It keeps the promises that a broker in memory can keep: delivery at least once, redelivery of what was not
    /// settled, delays, dead letters. Its time is tokio's, so tests may pause and advance it.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[must_use]
    pub fn memory() -> Self {
        Self::memory_with(Config::default())
    }

    /// As [`memory`](Self::memory), with settings of your own.
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
        shutdown::note(config.last_moments().process, transport.metrics());
        let (emitter, cancellations) = (StatusEmitter::default(), Cancellations::default());
        Self { shared: Arc::new(Shared { transport, config, emitter, cancellations }) }
    }

    /// The settings this handle was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Waits for the confirms that are outstanding, then closes the connections.
    ///
    /// Publishes after this end in [`PublishError::Closed`](crate::PublishError::Closed).
    pub async fn close(&self) {
        self.shared.transport.close().await;
    }

    /// Where to register metrics of your own, for the same page as Leveret's; their names get the prefix `leveret_`.
    ///
    /// ```
    /// let broker = leveret::Broker::amqp(leveret::Config::default())?;
    /// let orders = prometheus::IntCounter::new("orders_total", "Orders taken in")?;
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

    pub(crate) fn cancellations(&self) -> &Cancellations {
        &self.shared.cancellations
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// Milliseconds since the epoch, on the clock that this broker's delays run on.
    pub(crate) fn now_ms(&self) -> u64 {
        self.shared.transport.now_ms()
    }

    pub(crate) fn now(&self) -> Now {
        self.shared.transport.now()
    }

    pub(crate) async fn send(&self, target: &Target, message: Box<Message>, fail_fast: bool) -> Result<(), SendError> {
        self.shared.transport.send(target, message, fail_fast).await
    }

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

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = self.shared.transport.system();
        f.debug_struct("Broker").field("backend", &backend).field("config", &self.shared.config).finish()
    }
}
