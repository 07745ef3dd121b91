//! The seam between jobs and brokers: publish a message, open a session on a queue, settle what it delivers.
//!
//! There are two brokers, RabbitMQ and one in memory; the choice is closed on purpose, and one contract test suite runs
//! against both. Everything above this file speaks of queues and delays, everything below of exchanges and channels.

mod amqp;
mod clock;
mod lane;
mod memory;
mod session;

#[cfg(feature = "internals")]
pub(crate) use self::amqp::Acks;
pub use self::amqp::probe;
pub(crate) use self::amqp::{Address, split_addresses};
pub(crate) use self::{
    clock::Now,
    lane::Lane,
    session::{Delivery, Ended, OpenError, Session},
};

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    cancel::Cancelled,
    config::Config,
    error::Error,
    health::Health,
    message::Message,
    metrics::Metrics,
    publisher::Publisher,
    queue::Queue,
    quiet::Quiet,
    shutdown,
    tell::Teller,
    topology::{Plan, Stream, Target, Topology},
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
    backend: Backend,
    config: Config,
    metrics: Arc<Metrics>,
    quiet: Arc<Quiet>,
    health: Health,
    teller: Teller,
    cancelled: Cancelled,
}

enum Backend {
    Amqp(amqp::Amqp),
    Memory(memory::Memory),
}

/// Why a message was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no queue took it")]
    Returned,
    #[error("the broker refused it")]
    Nacked,
    /// The broker closed the channel over it, in these words.
    #[error("the broker closed the channel over it: {0}")]
    Refused(String),
    #[error("it was sent, but whether it arrived is unknown")]
    Uncertain,
    #[error("it was not sent: the broker takes no publishes: {0}")]
    Blocked(String),
    #[error("it was not sent: there is no connection: {0}")]
    Unavailable(String),
    #[error("it was not sent: the handle is closed")]
    Closed,
}

impl Broker {
    /// A handle on RabbitMQ. It connects when it is first used, and again for ever after each loss.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] for an address that is not an AMQP one or has a parameter that cannot work, [`Error::TlsNotCompiled`] for `amqps://` without the
    /// feature `tls`, [`Error::Setting`] for settings that cannot work, and for a file of TLS that cannot be read.
    pub fn amqp(config: Config) -> Result<Self, Error> {
        let metrics = new_metrics()?;
        let quiet = Arc::new(Quiet::default());
        let health = Health::new(Arc::clone(&metrics));
        let amqp = amqp::Amqp::new(&config, Arc::clone(&metrics), health.clone(), Arc::clone(&quiet))?;
        Ok(Self::new(Backend::Amqp(amqp), config, metrics, health, quiet))
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
        let metrics = new_metrics().expect("metric names are valid");
        metrics.connected.set(1);
        let memory = memory::Memory::new(Topology::new(&config.namespace));
        let health = Health::new(Arc::clone(&metrics));
        Self::new(Backend::Memory(memory), config, metrics, health, Arc::default())
    }

    fn new(backend: Backend, config: Config, metrics: Arc<Metrics>, health: Health, quiet: Arc<Quiet>) -> Self {
        let (teller, cancelled) = (Teller::default(), Cancelled::default());
        let broker = Self { shared: Arc::new(Shared { backend, config, metrics, quiet, health, teller, cancelled }) };
        shutdown::note(&broker);
        broker
    }

    /// What kind of broker it is, in the words of traces.
    #[cfg(feature = "otel")]
    pub(crate) fn system(&self) -> &'static str {
        match &self.shared.backend {
            Backend::Amqp(_) => "rabbitmq",
            Backend::Memory(_) => "memory",
        }
    }

    /// A publisher on this broker; cheap.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.clone())
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
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.close().await,
            Backend::Memory(_) => {}
        }
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
        self.shared.metrics.registry()
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    pub(crate) fn quiet(&self) -> &Quiet {
        &self.shared.quiet
    }

    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    pub(crate) fn teller(&self) -> &Teller {
        &self.shared.teller
    }

    pub(crate) fn cancelled(&self) -> &Cancelled {
        &self.shared.cancelled
    }

    /// This handle, for a task that is to end when all others are dropped.
    pub(crate) fn downgrade(&self) -> impl Fn() -> Option<Self> + Send + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || shared.upgrade().map(|shared| Self { shared })
    }

    /// Milliseconds since the epoch, on the clock that this broker's delays run on.
    pub(crate) fn now_ms(&self) -> u64 {
        match &self.shared.backend {
            Backend::Amqp(_) => clock::system_ms(),
            Backend::Memory(memory) => memory.now_ms(),
        }
    }

    /// The longest heartbeat of the addresses: a broker may take three of them to notice that a connection is dead.
    pub(crate) fn heartbeat(&self) -> Duration {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.heartbeat(),
            Backend::Memory(_) => self.config().heartbeat,
        }
    }

    /// The same, and the broker's time where that is known to differ.
    pub(crate) fn now(&self) -> Now {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.now(),
            Backend::Memory(memory) => Now::at(memory.now_ms()),
        }
    }

    /// Sends `message` to `target` and waits for the broker's confirm. With `fail_fast` it does not wait for a
    /// connection or for a blocked broker. The message is boxed, because it goes through many hands.
    pub(crate) async fn send(&self, target: &Target, message: Box<Message>, fail_fast: bool) -> Result<(), SendError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.send(target, message, fail_fast).await,
            Backend::Memory(memory) => memory.send(target, *message),
        }
    }

    /// Makes sure that `queue` and its surroundings exist, then starts to consume one lane of it.
    pub(crate) async fn open(&self, queue: &Queue, lane: Lane) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.open(queue, lane).await.map(|session| Session::Amqp(Box::new(session))),
            Backend::Memory(memory) => {
                memory.declare(queue);
                Ok(Session::Memory(memory.open(&lane.queue_name(queue), lane.prefetch(queue))))
            }
        }
    }

    /// Opens a session on a queue as it is, declaring nothing.
    pub(crate) async fn open_raw(&self, name: &str, prefetch: u16) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.open_raw(name, prefetch).await.map(|session| Session::Amqp(Box::new(session))),
            Backend::Memory(memory) => Ok(Session::Memory(memory.open(name, prefetch))),
        }
    }

    /// Reads a stream from the message of that number on.
    pub(crate) async fn open_stream(&self, stream: Stream, from: u64) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.open_stream(stream, from).await.map(|session| Session::Amqp(Box::new(session))),
            Backend::Memory(memory) => Ok(Session::Memory(memory.open_stream(stream, from))),
        }
    }

    /// Makes sure that what is planned exists.
    pub(crate) async fn ensure(&self, plan: &Plan) -> Result<(), OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.ensure(plan).await,
            Backend::Memory(memory) => {
                memory.declare_all(plan);
                Ok(())
            }
        }
    }

    /// Checks the topology again, declaring what is missing if that is this handle's way.
    pub(crate) async fn mend(&self, queue: &Queue) -> Result<(), OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.mend(queue).await,
            Backend::Memory(memory) => {
                memory.declare(queue);
                Ok(())
            }
        }
    }

    /// Whether no job is ready, delayed or in hand; only the in-memory broker knows.
    pub(crate) fn is_idle(&self) -> Option<bool> {
        match &self.shared.backend {
            Backend::Amqp(_) => None,
            Backend::Memory(memory) => Some(memory.is_idle()),
        }
    }
}

fn new_metrics() -> Result<Arc<Metrics>, Error> {
    let metrics = Metrics::new().map_err(|error| Error::Setting { setting: "metrics", reason: error.to_string() })?;
    Ok(Arc::new(metrics))
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = match &self.shared.backend {
            Backend::Amqp(_) => "amqp",
            Backend::Memory(_) => "memory",
        };
        f.debug_struct("Broker").field("backend", &backend).field("config", &self.shared.config).finish()
    }
}
