//! RabbitMQ through lapin: two connections, one that consumes and one that publishes. Replies to RabbitMQ's direct reply-to
//! have a third.
//!
//! They are separate because a broker in alarm stops reading a connection that publishes, acks included. lapin's own
//! recovery stays off: version 4.12 duplicates replayed bindings with each reconnect and can hang indefinitely. A lost
//! connection is replaced by a new one, and the owners of channels on it open them again.

mod ack_tracker;
mod acks;
mod address;
mod clock;
mod confirm;
mod confirm_watchdog;
mod connection;
mod consume;
mod declare;
mod in_flight;
pub mod probe;
mod publish;
mod publish_request;
mod reconnector;
mod redeclare;
mod refused;
mod results;
mod tls;

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

#[cfg(feature = "internals")]
pub(crate) use self::acks::Acks;
pub(crate) use self::{
    address::{Address, split as split_addresses},
    consume::AmqpSession,
};
use self::{publish::PublishTask, reconnector::Reconnector, tls::Tls};
use crate::{
    config::{Config, TopologyMode},
    error::Error,
    message::{Message, short},
    observe::{health::Health, log_throttle::LogThrottle, metrics::Metrics},
    time::now_ms,
    topology::{Plan, Routes, Start, Stream, Target, Topology, queue::QueueDeclaration},
};
use crate::{
    topology::lane::Lane,
    transport::{
        RESULTS_PREFETCH, SendError,
        clock::{Clock, Now},
        session::OpenError,
    },
};

/// The largest frame that Leveret negotiates: RabbitMQ's default (its documentation, "Networking"). lapin has two
/// buffers of 32 such frames for each connection. If lapin knows the size from the start, memory is allocated as it is
/// used. A size that only the broker sets would make lapin grow them, and write zeros into all 8 MiB.
const FRAME_MAX: u32 = 131_072;

pub(crate) struct Amqp {
    setup: Arc<Setup>,
    consuming: Reconnector,
    publishing: PublishTask,
    /// RabbitMQ ends a connection that publishes to a forged direct reply-to. So these publishes have their own, which is
    /// opened with the first of them.
    replying: PublishTask,
}

/// The facts that both connections share.
pub(crate) struct Setup {
    pub(crate) addresses: Vec<Address>,
    tls: Tls,
    pub(crate) topology: Topology,
    pub(crate) routes: Routes,
    pub(crate) mode: TopologyMode,
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
    pub(crate) log_throttle: Arc<LogThrottle>,
    /// The time at which the shared part of the topology was ensured.
    pub(crate) shared_ensured: Mutex<Option<Instant>>,
    pub(crate) clock: Clock,
    /// The time at which the clocks were compared.
    pub(crate) clock_compared: Mutex<Option<Instant>>,
    /// Ends both connections permanently.
    pub(crate) closed: CancellationToken,
}

impl Amqp {
    pub(crate) fn new(
        config: &Config,
        metrics: Arc<Metrics>,
        health: Health,
        log_throttle: Arc<LogThrottle>,
    ) -> Result<Self, Error> {
        if config.heartbeat < Duration::from_secs(1) {
            let reason = format!(
                "{:?} must be at least 1s: without heartbeats a silent loss is never noticed",
                config.heartbeat
            );
            return Err(Error::Setting { setting: "LEVERET_HEARTBEAT", reason });
        }
        let topology = Topology::new(&config.namespace);
        config.check_namespace()?;
        let addresses = address::parse_addresses(config)?;
        let setup = Arc::new(Setup {
            tls: Tls::new(config, &addresses)?,
            addresses,
            routes: Routes::new(&topology),
            topology,
            mode: config.topology,
            config: config.clone(),
            metrics,
            health,
            log_throttle,
            shared_ensured: Mutex::new(None),
            clock: Clock::default(),
            clock_compared: Mutex::new(None),
            closed: CancellationToken::new(),
        });
        let consuming = Reconnector::new("consume", Arc::clone(&setup));
        let publishing = PublishTask::new(Reconnector::new("publish", Arc::clone(&setup)), Arc::clone(&setup));
        let replying = PublishTask::new(Reconnector::new(connection::REPLY, Arc::clone(&setup)), Arc::clone(&setup));
        Ok(Self { setup, consuming, publishing, replying })
    }

    pub(crate) async fn send(&self, target: &Target, message: Box<Message>, fail_fast: bool) -> Result<(), SendError> {
        match target {
            Target::DirectReply(_) => Box::pin(self.replying.send(target, message, fail_fast)).await,
            _ => self.publishing.send(target, message, fail_fast).await,
        }
    }

    pub(crate) async fn open(
        &self,
        queue: &QueueDeclaration,
        lane: Lane,
        prefetch: u16,
    ) -> Result<AmqpSession, OpenError> {
        let up = self.consuming.up().await.map_err(|_| OpenError::Passing("closed".to_owned()))?;
        let (name, plan) = if queue.is_each_process() {
            let (name, plan) = self.setup.topology.of_each_process(queue);
            declare::ensure_shared(&up, &self.setup).await?;
            declare::ensure_own(&up, &plan).await?;
            (name, plan)
        } else {
            declare::ensure_queue(&up, &self.setup, queue).await?;
            (lane.queue_name(queue), self.setup.topology.of_queue(queue))
        };
        // Deliveries are checked against both clocks at once.
        clock::compare(&self.publishing.reconnector(), &self.setup).await;
        let session = AmqpSession::open(Arc::clone(&up), &name, prefetch).await?;
        let mut session = session.with_proof_of_acks();
        if queue.is_subscription() {
            session = session.with_topics(short(&self.setup.topology.topics()), self.setup.config.payload_limit);
        }
        let is_verified = self.setup.mode == TopologyMode::Verify && !queue.is_each_process();
        if lane != Lane::Main || is_verified {
            return Ok(session);
        }
        let redeclaring = redeclare::repeatedly(up, self.publishing.reconnector(), Arc::clone(&self.setup), plan);
        Ok(session.with_task(AbortOnDropHandle::new(tokio::spawn(redeclaring))))
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        let seconds = self.setup.addresses.iter().map(|address| address.heartbeat).max();
        seconds.map_or(self.setup.config.heartbeat, |seconds| Duration::from_secs(seconds.into()))
    }

    pub(crate) fn now(&self) -> Now {
        self.setup.clock.at(now_ms())
    }

    pub(crate) async fn open_raw(&self, name: &str, prefetch: u16) -> Result<AmqpSession, OpenError> {
        let up = self.consuming.up().await.map_err(|_| OpenError::Passing("closed".to_owned()))?;
        AmqpSession::open(up, name, prefetch).await
    }

    pub(crate) async fn open_stream(&self, stream: Stream, from: u64) -> Result<AmqpSession, OpenError> {
        let up = self.consuming.up().await.map_err(|_| OpenError::Passing("closed".to_owned()))?;
        declare::ensure_shared(&up, &self.setup).await?;
        AmqpSession::open_stream(up, &self.setup.topology.stream(stream), from).await
    }

    /// Declares a queue for the last status updates of tracked jobs, which lives as long as its session, and opens it.
    pub(crate) async fn open_results(&self) -> Result<AmqpSession, OpenError> {
        let up = self.consuming.up().await.map_err(|_| OpenError::Passing("closed".to_owned()))?;
        // A publisher has rights to few objects. To verify the others, it would open a channel for each.
        if self.setup.mode == TopologyMode::Declare {
            declare::ensure_shared(&up, &self.setup).await?;
        }
        let queue = results::declare(&up, &self.setup).await?;
        AmqpSession::open(up, &queue, RESULTS_PREFETCH).await
    }

    pub(crate) async fn disconnected(&self) -> Option<String> {
        self.consuming.first_state().await.err()
    }

    /// Declares an exclusive queue for replies and consumes it; both end with the session.
    pub(crate) async fn open_replies(&self, queue: &str, prefetch: u16) -> Result<AmqpSession, OpenError> {
        let up = self.consuming.up().await.map_err(|_| OpenError::Passing("closed".to_owned()))?;
        declare::declare_replies(&up, queue).await?;
        AmqpSession::open(up, queue, prefetch).await
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.setup.closed.is_cancelled()
    }

    pub(crate) async fn open_event_log(&self, start: Start) -> Result<AmqpSession, OpenError> {
        let up = self.consuming.up().await.map_err(|_| OpenError::Passing("closed".to_owned()))?;
        let topology = &self.setup.topology;
        let session = AmqpSession::open_stream_at(Arc::clone(&up), &topology.event_log(), start).await?;
        let session = session.with_topics(short(&topology.topics()), self.setup.config.payload_limit);
        if self.setup.mode == TopologyMode::Verify {
            return Ok(session);
        }
        // Without its binding the stream gets no events, and its readers see no error.
        let binding = Plan { queues: Vec::new(), ..topology.of_event_log() };
        let redeclaring = redeclare::repeatedly(up, self.publishing.reconnector(), Arc::clone(&self.setup), binding);
        Ok(session.with_task(AbortOnDropHandle::new(tokio::spawn(redeclaring))))
    }

    pub(crate) async fn ensure(&self, plan: &Plan) -> Result<(), OpenError> {
        let up = self.consuming.up().await.map_err(|_| OpenError::Passing("closed".to_owned()))?;
        declare::ensure_shared(&up, &self.setup).await?;
        declare::ensure(&up, &self.setup, plan).await
    }

    pub(crate) async fn repair(&self, queue: &QueueDeclaration) -> Result<(), OpenError> {
        let up = self.consuming.up().await.map_err(|_| OpenError::Passing("closed".to_owned()))?;
        declare::invalidate_shared(&self.setup, declare::lately()).await;
        declare::ensure_queue(&up, &self.setup, queue).await
    }

    pub(crate) async fn close(&self) {
        // Each may take the publish timeout.
        tokio::join!(self.publishing.finish(), self.replying.finish());
        self.setup.closed.cancel();
        self.consuming.closed().await;
        self.publishing.closed().await;
        self.replying.closed().await;
    }
}

impl Drop for Amqp {
    fn drop(&mut self) {
        self.setup.closed.cancel();
    }
}

impl Config {
    /// Returns the broker addresses one by one: an entry of [`amqp_url`](Self::amqp_url) may be a list. A comma
    /// separates only before `amqp://` or `amqps://`, because a password may contain commas.
    ///
    /// ```
    /// use leveret::Config;
    ///
    /// let config = Config { amqp_url: vec!["amqp://u:a,b@one,amqp://u:a,b@two".into()], ..Config::default() };
    /// assert!(config.addresses().eq(["amqp://u:a,b@one", "amqp://u:a,b@two"]));
    /// ```
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.amqp_url.iter().flat_map(|list| split_addresses(list))
    }

    /// Returns the vhost of the first broker address, for tools that pass it to another program.
    ///
    /// ```
    /// use leveret::Config;
    ///
    /// let config = Config { amqp_url: vec!["amqp://mq/orders%20old".into()], ..Config::default() };
    /// assert_eq!(config.vhost()?, "orders old");
    /// # Ok::<_, leveret::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as for [`Broker::amqp`](crate::Broker::amqp), for the address.
    pub fn vhost(&self) -> Result<String, Error> {
        let none = || Error::Setting { setting: "AMQP_URL", reason: "it contains no address".to_owned() };
        Ok(Address::parse(self.addresses().next().ok_or_else(none)?, self.heartbeat)?.vhost().to_owned())
    }
}
