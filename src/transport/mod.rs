//! The transport between jobs and brokers: RabbitMQ, or one in this process's memory.
//!
//! The set of brokers is closed on purpose, and one contract test suite runs against both. Modules above this one use
//! queues and delays. Modules in it use exchanges and channels.

pub(crate) mod amqp;
pub(crate) mod clock;
pub(crate) mod memory;
pub(crate) mod session;

use std::{sync::Arc, time::Duration};

use self::{
    clock::Now,
    session::{OpenError, Session},
};
use crate::{
    config::Config,
    error::Error,
    message::Message,
    observe::{health::Health, log_throttle::LogThrottle, metrics::Metrics},
    time::now_ms,
    topology::{Plan, QueueDeclaration, Start, Stream, Target, Topology, lane::Lane},
};

/// Most status updates that are delivered to a waiting publisher and not yet handled.
const RESULTS_PREFETCH: u16 = 256;

/// The reason why a message was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no queue received the message")]
    Returned,
    #[error("the broker nacked the message")]
    Nacked,
    /// The broker closed the channel because of the message; holds the broker's text.
    #[error("the broker closed the channel because of the message: {0}")]
    Refused(String),
    #[error("the message was sent but not confirmed")]
    Uncertain,
    #[error("the message was not sent: the broker blocks publishes: {0}")]
    Blocked(String),
    #[error("the message was not sent: there is no connection: {0}")]
    Unavailable(String),
    #[error("the message was not sent: the handle is closed")]
    Closed,
}

/// The connections to a broker, with their metrics, health and log throttle. Clones share them.
#[derive(Clone)]
pub(crate) struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Backend,
    heartbeat: Duration,
    namespace: String,
    metrics: Arc<Metrics>,
    log_throttle: Arc<LogThrottle>,
    health: Health,
}

enum Backend {
    Amqp(amqp::Amqp),
    Memory(memory::Memory),
}

impl Transport {
    /// Returns a transport to RabbitMQ; it connects at its first use.
    pub(crate) fn amqp(config: &Config) -> Result<Self, Error> {
        let metrics = new_metrics()?;
        let log_throttle = Arc::new(LogThrottle::default());
        let health = Health::new(Arc::clone(&metrics));
        let amqp = amqp::Amqp::new(config, Arc::clone(&metrics), health.clone(), Arc::clone(&log_throttle))?;
        Ok(Self::new(Backend::Amqp(amqp), config, metrics, health, log_throttle))
    }

    /// Returns a broker in this process's memory.
    pub(crate) fn memory(config: &Config) -> Result<Self, Error> {
        let metrics = new_metrics()?;
        metrics.connected.set(1);
        let memory = memory::Memory::new(Topology::new(&config.namespace));
        let health = Health::new(Arc::clone(&metrics));
        Ok(Self::new(Backend::Memory(memory), config, metrics, health, Arc::default()))
    }

    fn new(
        backend: Backend,
        config: &Config,
        metrics: Arc<Metrics>,
        health: Health,
        log_throttle: Arc<LogThrottle>,
    ) -> Self {
        let (heartbeat, namespace) = (config.heartbeat, config.namespace.clone());
        Self { shared: Arc::new(Shared { backend, heartbeat, namespace, metrics, log_throttle, health }) }
    }

    /// Returns weak access to this transport, for a task that ends when all handles are dropped.
    pub(crate) fn downgrade(&self) -> impl Fn() -> Option<Self> + Send + use<> {
        let shared = Arc::downgrade(&self.shared);
        move || shared.upgrade().map(|shared| Self { shared })
    }

    /// Returns the kind of broker: `rabbitmq` or `memory`.
    pub(crate) fn system(&self) -> &'static str {
        match &self.shared.backend {
            Backend::Amqp(_) => "rabbitmq",
            Backend::Memory(_) => "memory",
        }
    }

    /// Returns the prefix of the names on the broker.
    pub(crate) fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    pub(crate) fn log_throttle(&self) -> &LogThrottle {
        &self.shared.log_throttle
    }

    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Returns the milliseconds since the epoch, on the clock of this broker's delays.
    pub(crate) fn now_ms(&self) -> u64 {
        match &self.shared.backend {
            Backend::Amqp(_) => now_ms(),
            Backend::Memory(memory) => memory.now_ms(),
        }
    }

    /// Returns the longest heartbeat of the addresses. A broker may need three heartbeats to detect a dead connection.
    pub(crate) fn heartbeat(&self) -> Duration {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.heartbeat(),
            Backend::Memory(_) => self.shared.heartbeat,
        }
    }

    /// Returns the current time, and the broker's time if it is known to differ.
    pub(crate) fn now(&self) -> Now {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.now(),
            Backend::Memory(memory) => Now::at(memory.now_ms()),
        }
    }

    /// Sends `message` to `target` and waits for the broker's confirm. With `fail_fast` it waits neither for a
    /// connection nor for a blocked broker. The message is boxed because it is moved often.
    pub(crate) async fn send(&self, target: &Target, message: Box<Message>, fail_fast: bool) -> Result<(), SendError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.send(target, message, fail_fast).await,
            Backend::Memory(memory) => memory.send(target, *message),
        }
    }

    /// Ensures that `queue` and its related objects exist, then starts to consume one lane of it.
    pub(crate) async fn open(&self, queue: &QueueDeclaration, lane: Lane, prefetch: u16) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => {
                amqp.open(queue, lane, prefetch).await.map(|session| Session::Amqp(Box::new(session)))
            }
            Backend::Memory(memory) => {
                if queue.is_each_process() {
                    return Ok(Session::Memory(memory.open_each_process(queue, prefetch)));
                }
                memory.declare(queue);
                Ok(Session::Memory(memory.open(&lane.queue_name(queue), prefetch)))
            }
        }
    }

    /// Opens a session on an existing queue, without declaring anything.
    pub(crate) async fn open_raw(&self, name: &str, prefetch: u16) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.open_raw(name, prefetch).await.map(|session| Session::Amqp(Box::new(session))),
            Backend::Memory(memory) => Ok(Session::Memory(memory.open(name, prefetch))),
        }
    }

    /// Reads a stream from message `from` on.
    pub(crate) async fn open_stream(&self, stream: Stream, from: u64) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.open_stream(stream, from).await.map(|session| Session::Amqp(Box::new(session))),
            Backend::Memory(memory) => Ok(Session::Memory(memory.open_stream(stream, from))),
        }
    }

    /// Reads the log of events, which must exist.
    pub(crate) async fn open_event_log(&self, start: Start) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.open_event_log(start).await.map(|session| Session::Amqp(Box::new(session))),
            Backend::Memory(memory) => Ok(Session::Memory(memory.open_event_log(start))),
        }
    }

    /// Reads the last status updates of tracked jobs from now on.
    pub(crate) async fn open_results(&self) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.open_results().await.map(|session| Session::Amqp(Box::new(session))),
            Backend::Memory(memory) => Ok(Session::Memory(memory.open_results(RESULTS_PREFETCH))),
        }
    }

    /// Declares an exclusive queue for replies and consumes it; the queue is deleted at the end of the session.
    pub(crate) async fn open_replies(&self, queue: &str, prefetch: u16) -> Result<Session, OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => {
                amqp.open_replies(queue, prefetch).await.map(|session| Session::Amqp(Box::new(session)))
            }
            Backend::Memory(memory) => Ok(Session::Memory(memory.open_temporary(queue, prefetch))),
        }
    }

    /// Returns whether the handle was closed.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.is_closed(),
            Backend::Memory(_) => false,
        }
    }

    /// Returns the reason if there is no connection for consumers after the first attempt to connect.
    pub(crate) async fn disconnected(&self) -> Option<String> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.disconnected().await,
            Backend::Memory(_) => None,
        }
    }

    /// Ensures that the objects of the plan exist.
    pub(crate) async fn ensure(&self, plan: &Plan) -> Result<(), OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.ensure(plan).await,
            Backend::Memory(memory) => {
                memory.declare_all(plan);
                Ok(())
            }
        }
    }

    /// Checks the topology again and, in declare mode, declares missing objects.
    pub(crate) async fn repair(&self, queue: &QueueDeclaration) -> Result<(), OpenError> {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.repair(queue).await,
            Backend::Memory(memory) => {
                memory.declare(queue);
                Ok(())
            }
        }
    }

    /// Returns whether no job is ready, delayed or unacknowledged; `None` for RabbitMQ.
    pub(crate) fn is_idle(&self) -> Option<bool> {
        match &self.shared.backend {
            Backend::Amqp(_) => None,
            Backend::Memory(memory) => Some(memory.is_idle()),
        }
    }

    /// Waits for the outstanding confirms, then closes the connections.
    pub(crate) async fn close(&self) {
        match &self.shared.backend {
            Backend::Amqp(amqp) => amqp.close().await,
            Backend::Memory(_) => {}
        }
    }
}

fn new_metrics() -> Result<Arc<Metrics>, Error> {
    Ok(Arc::new(Metrics::new().map_err(Error::Metrics)?))
}
