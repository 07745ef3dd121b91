//! A connection that inspects a broker, for diagnostic tools; `leveret doctor` uses it.
//!
//! Unlike [`Broker`](crate::Broker) it does not reconnect, and it returns every refusal with its reason. It declares,
//! publishes and removes nothing, unless it is asked to delete a queue or a binding. It requeues the dead letters that
//! it reads, which the broker counts as one more delivery of each.

mod refusal;
mod remove;
mod rights;

use std::{fmt, time::Duration};

use lapin::{
    Channel, Connection,
    options::{BasicGetOptions, QueueDeclareOptions},
    types::FieldTable,
};
use lapin_guard::{Guard, ServerProperties};

use self::refusal::refusal;
pub use self::refusal::{ConnectError, Refusal};
use crate::transport::amqp::{Address, address::parse_addresses, connection, declare, tls::Tls};
use crate::{
    config::Config,
    message::{Message, dead_letter::DeadLetter, short},
    time::now_ms,
    topology::{DEAD, Exchange, QueuePlan},
};

/// Longest wait for one answer of the broker.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// The broker's own description before a login; a field is empty if the broker does not send it.
///
/// [`Probe`] has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// `RabbitMQ`.
    pub product: String,
    /// Its version: `4.1.3`.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The login mechanisms, separated by spaces: `PLAIN AMQPLAIN`.
    pub mechanisms: String,
}

/// The current state of a queue.
///
/// [`Probe`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Depth {
    /// Messages that wait for a consumer, without the unacknowledged ones.
    pub ready: u32,
    /// Number of consumers.
    pub consumers: u32,
}

/// A connection that inspects a broker.
///
/// ```no_run
/// use leveret::{Config, probe::{Probe, Refusal}, topology::{QueueDeclaration, Topology}};
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut probe = Probe::connect("amqp://guest:guest@localhost/%2f", &Config::default()).await?;
/// println!("{} {}", probe.server().product, probe.server().version);
/// for queue in &Topology::new("leveret.v1").of_queue(&QueueDeclaration::new("email")).queues {
///     match probe.depth(&queue.name).await {
///         Ok(depth) => println!("{}: {} ready, {} consumers", queue.name, depth.ready, depth.consumers),
///         Err(Refusal::Missing) => println!("{} is missing", queue.name),
///         Err(refusal) => return Err(refusal.into()),
///     }
/// }
/// probe.close().await;
/// # Ok(()) }
/// ```
pub struct Probe {
    connection: Connection,
    /// The channel of the last request, unless a refusal closed it.
    channel: Option<Channel>,
    address: Address,
    guard: Guard,
    is_silent: bool,
}

impl fmt::Debug for Probe {
    /// Shows the address and the user, without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("host", &self.host())
            .field("port", &self.port())
            .field("vhost", &self.vhost())
            .field("user", &self.login().0)
            .field("server", &self.server())
            .finish_non_exhaustive()
    }
}

impl Probe {
    /// Connects to one address, once, with the heartbeat and the TLS files of `config`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] states the step that failed.
    pub async fn connect(url: &str, config: &Config) -> Result<Self, ConnectError> {
        let address = Address::parse(url, config.heartbeat).map_err(ConnectError::Address)?;
        let mut addresses = parse_addresses(config).map_err(ConnectError::Address)?;
        addresses.push(address.clone());
        let tls = Tls::new(config, &addresses).map_err(ConnectError::Address)?;
        let (properties, options) = (connection::properties("probe", &address), tls.options(ANSWERED_WITHIN));
        match lapin_guard::connect(&address.uri(), properties, &options).await {
            Ok((connection, guard)) => match connection::too_small(&connection) {
                None => Ok(Self { connection, channel: None, address, guard, is_silent: false }),
                Some(reason) => Err(ConnectError::Unreachable { address: address.to_string(), reason }),
            },
            Err(failure) => Err(ConnectError::of(&failure, &address)),
        }
    }

    /// Returns the broker's description of itself.
    #[must_use]
    pub fn server(&self) -> Server {
        let ServerProperties { product, version, cluster_name: cluster, mechanisms, .. } = self.guard.server();
        Server { product, version, cluster, mechanisms }
    }

    /// Returns the broker's host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.address.host
    }

    /// Returns the broker's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port
    }

    /// Returns the vhost.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.address.vhost
    }

    /// Returns user and password, for another interface of the same broker.
    #[must_use]
    pub fn login(&self) -> (&str, &str) {
        (&self.address.user, &self.address.password)
    }

    /// Returns the state of a queue.
    ///
    /// # Errors
    ///
    /// [`Refusal`]. Before RabbitMQ 4.3 it requires no permission, from then on any permission on the queue.
    pub async fn depth(&mut self, queue: &str) -> Result<Depth, Refusal> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found =
            self.ask(async |channel| channel.queue_declare(short(queue), options, FieldTable::default()).await).await?;
        Ok(Depth { ready: found.message_count(), consumers: found.consumer_count() })
    }

    /// Compares a queue with its plan by declaring it again, if it exists. (A queue that is deleted at that very moment
    /// is declared again.)
    ///
    /// # Errors
    ///
    /// [`Refusal::Mismatch`] if it differs, [`Refusal::Denied`] without configure permission.
    pub async fn compare_queue(&mut self, plan: &QueuePlan) -> Result<(), Refusal> {
        self.depth(&plan.name).await?;
        self.ask(async |channel| declare::declare_queue(channel, plan, false).await).await
    }

    /// Compares an exchange with its plan by declaring it again, if it exists.
    ///
    /// # Errors
    ///
    /// The same as for [`compare_queue`](Self::compare_queue).
    pub async fn compare_exchange(&mut self, plan: &Exchange) -> Result<(), Refusal> {
        self.ask(async |channel| declare::declare_exchange(channel, plan, true).await).await?;
        self.ask(async |channel| declare::declare_exchange(channel, plan, false).await).await
    }

    /// Reads up to `limit` dead letters of a queue, the oldest first, passes each to `visit`, and requeues them at the
    /// end. Returns their number.
    ///
    /// Only one is in memory at a time. Other consumers do not receive them in the meantime. The broker counts a
    /// delivery of each, of at most a million.
    ///
    /// ```no_run
    /// # async fn count(mut probe: leveret::probe::Probe) -> Result<(), leveret::probe::Refusal> {
    /// let mut bytes = 0;
    /// let read = probe.dead_letters("email", 100, |letter| bytes += letter.payload.len()).await?;
    /// println!("{read} dead letters, {bytes} bytes");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Refusal`]; it requires read permission on `<queue>.dead`. Dead letters read before the error have been
    /// visited.
    pub async fn dead_letters(
        &mut self,
        queue: &str,
        limit: u32,
        mut visit: impl FnMut(DeadLetter),
    ) -> Result<u32, Refusal> {
        let dead = format!("{queue}{DEAD}");
        let now_ms = now_ms();
        let mut read = 0;
        while read < limit {
            let options = BasicGetOptions::default();
            let got = self.ask(async |channel| channel.basic_get(short(&dead), options).await).await?;
            let Some(got) = got else { break };
            let message = Message { properties: got.delivery.properties, body: got.delivery.data.into() };
            visit(DeadLetter::read(&message, now_ms));
            read += 1;
        }
        self.close_channel().await;
        Ok(read)
    }

    /// Closes the connection.
    pub async fn close(self) {
        let close = self.connection.close(200, "closed".into());
        if !matches!(tokio::time::timeout(ANSWERED_WITHIN, close).await, Ok(Ok(()))) {
            tracing::debug!("the connection was gone before it was closed");
        }
    }

    /// Closes the channel, which requeues its unacknowledged messages.
    async fn close_channel(&mut self) {
        let Some(channel) = self.channel.take() else { return };
        if !matches!(tokio::time::timeout(ANSWERED_WITHIN, channel.close(200, "done".into())).await, Ok(Ok(()))) {
            tracing::debug!("the channel was gone before it was closed");
        }
    }

    /// Makes one request, on the last channel if that is still open. After the first unanswered request all others fail
    /// at once, because each would wait as long.
    async fn ask<T>(&mut self, request: impl AsyncFnOnce(&Channel) -> lapin::Result<T>) -> Result<T, Refusal> {
        if self.is_silent || !self.connection.status().connected() {
            return Err(Refusal::Failed("the connection is lost".to_owned()));
        }
        let asked = async {
            let channel = match self.channel.take() {
                Some(channel) if channel.status().connected() => channel,
                _ => self.connection.create_channel().await?,
            };
            let answer = request(&channel).await?;
            self.channel = Some(channel);
            Ok(answer)
        };
        match tokio::time::timeout(ANSWERED_WITHIN, asked).await {
            Ok(answer) => answer.map_err(|error| refusal(&error)),
            Err(_) => {
                self.is_silent = true;
                Err(Refusal::Failed(no_answer()))
            }
        }
    }
}

fn no_answer() -> String {
    format!("nothing within {} s", ANSWERED_WITHIN.as_secs())
}
