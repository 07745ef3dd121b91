//! Declares a plan, or verifies that it is there.
//!
//! What all queues share is two hundred names and bindings. They are ensured once in a process and again when something
//! turns out to be missing, not with every connection: a thousand workers that reconnect at once must not keep a broker
//! busy with what it has.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, try_join_all};
use lapin::{
    Channel, ErrorKind, ExchangeKind as LapinKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable},
};

use tokio::time::{Instant, sleep};

use crate::transport::amqp::{Setup, connection::LiveConnection};
use crate::{
    config::TopologyMode,
    error::Error,
    message::{short, text},
    topology::{Argument, Binding, Destination, Exchange, ExchangeKind, Plan, QueuePlan, queue::QueueDeclaration},
    transport::session::OpenError,
};

/// A cluster may have to elect its leaders first.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
const JUST_ENSURED: Duration = Duration::from_secs(1);

/// Ensures what all queues share, unless that was done before.
pub(super) async fn ensure_shared(up: &LiveConnection, setup: &Setup) -> Result<(), OpenError> {
    let mut ensured = setup.shared_ensured.lock().await;
    if ensured.is_none() {
        ensure(up, setup, &setup.topology.shared()).await?;
        *ensured = Some(Instant::now());
    }
    Ok(())
}

/// Makes the next [`ensure_shared`] look again, because something was missing at that time. It looks once for all who
/// found something missing before it looked.
pub(super) async fn invalidate_shared(setup: &Setup, missing_at: Instant) {
    let mut ensured = setup.shared_ensured.lock().await;
    if ensured.is_some_and(|at| at < missing_at) {
        *ensured = None;
    }
}

/// A time for [`invalidate_shared`] where the caller does not know when something was missing.
pub(super) fn lately() -> Instant {
    let now = Instant::now();
    now.checked_sub(JUST_ENSURED).unwrap_or(now)
}

/// Ensures a queue and all that it needs.
pub(super) async fn ensure_queue(
    up: &LiveConnection,
    setup: &Setup,
    queue: &QueueDeclaration,
) -> Result<(), OpenError> {
    let began = Instant::now();
    ensure_shared(up, setup).await?;
    let ensured = ensure(up, setup, &setup.topology.of_queue(queue)).await;
    if ensured.is_err() && !up.lost.is_cancelled() {
        invalidate_shared(setup, began).await;
    }
    ensured
}

/// Declares the plan, or only verifies it, as the settings say. It has a channel of its own: a refusal closes that.
pub(super) async fn ensure(up: &LiveConnection, setup: &Setup, plan: &Plan) -> Result<(), OpenError> {
    let ensured = async {
        match setup.mode {
            TopologyMode::Declare => declare(up, plan).await,
            TopologyMode::Verify => verify(up, plan).await,
        }
    };
    let channel = tokio::select! {
        // A refusal that ends the connection says more than its loss.
        biased;
        ensured = ensured => ensured?,
        () = up.lost.cancelled() => return Err(OpenError::Passing("the connection was lost".to_owned())),
        () = sleep(ANSWERED_WITHIN) => {
            return Err(OpenError::Passing(format!("the broker has not answered within {ANSWERED_WITHIN:?}")));
        }
    };
    up.unless_lost(channel.close(200, "declared".into())).await.map_err(OpenError::Passing)
}

/// All at once: the broker takes the commands of a channel in their order and need not be waited for in between. The
/// first to fail is the one that was refused; those after it fail with their channel.
async fn declare(up: &LiveConnection, plan: &Plan) -> Result<Channel, OpenError> {
    let channel = open(up).await?;
    declare_on(&channel, plan).await?;
    Ok(channel)
}

pub(super) async fn declare_on(channel: &Channel, plan: &Plan) -> Result<(), Refused> {
    let mut commands: Vec<BoxFuture<'_, _>> = Vec::new();
    for exchange in &plan.exchanges {
        commands.push(refusable(name_of(exchange), declare_exchange(channel, exchange, false)).boxed());
    }
    for queue in &plan.queues {
        commands.push(refusable(name_of_queue(queue), declare_queue(channel, queue, queue.adopted)).boxed());
    }
    commands.extend(plan.bindings.iter().map(|binding| bind(channel, binding).boxed()));
    try_join_all(commands).await.map(drop)
}

/// AMQP can verify existence only, not arguments or bindings.
async fn verify(up: &LiveConnection, plan: &Plan) -> Result<Channel, OpenError> {
    let mut channel = open(up).await?;
    for exchange in &plan.exchanges {
        let found = refusable(name_of(exchange), declare_exchange(&channel, exchange, true)).await;
        channel = unless_hidden(up, channel, found).await?;
    }
    for queue in &plan.queues {
        let found = refusable(name_of_queue(queue), declare_queue(&channel, queue, true)).await;
        channel = unless_hidden(up, channel, found).await?;
    }
    Ok(channel)
}

/// The channel to go on with after looking for something.
///
/// From 4.2.6 on RabbitMQ keeps from a user what it has no right to. That is not this user's to verify: what it has to
/// read or write itself, it finds missing or forbidden when it does.
async fn unless_hidden(
    up: &LiveConnection,
    channel: Channel,
    found: Result<(), Refused>,
) -> Result<Channel, OpenError> {
    match found {
        Err(refusal) if refusal.is_for_lack_of_a_right() => {
            tracing::debug!(name = refusal.name, "not verified: it is hidden from this user");
            open(up).await
        }
        found => Ok(found.map(|()| channel)?),
    }
}

async fn open(up: &LiveConnection) -> Result<Channel, OpenError> {
    up.channel().await.map_err(OpenError::Passing)
}

pub(super) async fn declare_exchange(channel: &Channel, exchange: &Exchange, passive: bool) -> lapin::Result<()> {
    let kind = match exchange.kind {
        ExchangeKind::Direct => LapinKind::Direct,
        ExchangeKind::Fanout => LapinKind::Fanout,
        ExchangeKind::Topic => LapinKind::Topic,
    };
    let mut arguments = FieldTable::default();
    if let Some(alternate) = &exchange.alternate {
        arguments.insert("alternate-exchange".into(), text(alternate));
    }
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(short(&exchange.name), kind, options, arguments).await
}

pub(super) async fn declare_queue(channel: &Channel, queue: &QueuePlan, passive: bool) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    for (name, argument) in &queue.arguments {
        let value = match argument {
            Argument::Text(value) => text(value),
            Argument::Integer(value) => AMQPValue::LongLongInt(*value),
            Argument::Flag(value) => AMQPValue::Boolean(*value),
        };
        arguments.insert((*name).into(), value);
    }
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(short(&queue.name), options, arguments).await.map(drop)
}

async fn bind(channel: &Channel, binding: &Binding) -> Result<(), Refused> {
    let (source, key, none) = (short(&binding.source), short(&binding.key), FieldTable::default());
    let named = |name: &str| format!("binding of {name:?} to {:?}", binding.source);
    match &binding.destination {
        Destination::Queue(queue) => {
            let options = QueueBindOptions::default();
            refusable(named(queue), channel.queue_bind(short(queue), source, key, options, none)).await
        }
        Destination::Exchange(exchange) => {
            let options = ExchangeBindOptions::default();
            refusable(named(exchange), channel.exchange_bind(short(exchange), source, key, options, none)).await
        }
    }
}

fn name_of(exchange: &Exchange) -> String {
    format!("exchange {:?}", exchange.name)
}

fn name_of_queue(queue: &QueuePlan) -> String {
    format!("queue {:?}", queue.name)
}

/// A command whose refusal names what it is about.
async fn refusable(name: String, command: impl Future<Output = lapin::Result<()>>) -> Result<(), Refused> {
    command.await.map_err(|error| Refused { name, error })
}

/// Whether the broker's words on a failed precondition say that something exists with other arguments. A limit that is
/// reached and an argument that the broker does not know have the same reply code.
pub(super) fn is_mismatch(words: &str) -> bool {
    words.contains("inequivalent arg")
}

/// Why a part of a plan is not there.
pub(super) struct Refused {
    name: String,
    error: lapin::Error,
}

impl Refused {
    /// Whether something that it needs does not exist.
    pub(super) fn is_for_something_missing(&self) -> bool {
        let ErrorKind::ProtocolError(protocol) = self.error.kind() else { return false };
        matches!(protocol.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
    }

    fn is_for_lack_of_a_right(&self) -> bool {
        let ErrorKind::ProtocolError(protocol) = self.error.kind() else { return false };
        matches!(protocol.kind(), AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))
    }
}

impl From<Refused> for OpenError {
    fn from(refusal: Refused) -> Self {
        let Refused { name, error } = refusal;
        let ErrorKind::ProtocolError(protocol) = error.kind() else { return Self::Passing(error.to_string()) };
        let detail = protocol.get_message().to_string();
        match protocol.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if is_mismatch(&detail) => {
                Self::Fatal(Error::Mismatch { name, detail })
            }
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if detail.contains("is reached") => Self::Passing(
                format!("{name}: {detail}. Raise the limit (rabbitmqctl set_vhost_limits), or use another vhost"),
            ),
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                let remedy = "Leveret needs RabbitMQ 3.10 or newer";
                Self::Fatal(Error::Undeclarable { name, detail, remedy })
            }
            AMQPErrorKind::Hard(_) if detail.contains("feature flag is disabled") => {
                let remedy = "Enable it on the cluster: rabbitmqctl enable_feature_flag all";
                Self::Fatal(Error::Undeclarable { name, detail, remedy })
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Passing(format!(
                "{name}: {detail}. Grant the configure right, or declare the topology as another user and start with \
                 LEVERET_TOPOLOGY=verify"
            )),
            AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => Self::Passing(format!("{name}: {detail}")),
        }
    }
}
