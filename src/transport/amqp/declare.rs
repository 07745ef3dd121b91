//! Declares a plan, or verifies that its objects exist.
//!
//! The shared part of all queues has two hundred names and bindings. It is ensured once in a process and again when
//! something is found missing, not with every connection. So a thousand workers that reconnect at once do not burden
//! the broker with declarations.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, try_join_all};
use lapin::{
    Channel, ErrorKind, ExchangeKind as LapinKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable},
};

use tokio::time::{Instant, sleep, timeout};

use crate::transport::amqp::{Setup, connection::LiveConnection, consume::OwnChannel};
use crate::{
    config::TopologyMode,
    error::Error,
    message::{short, text},
    topology::{
        Argument, Binding, Destination, Exchange, ExchangeKind, Plan, QueuePlan, events::UNUSED_MS,
        queue::QueueDeclaration,
    },
    transport::session::OpenError,
};

/// Longest wait for an answer; a cluster may have to elect its leaders first.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
const JUST_ENSURED: Duration = Duration::from_secs(1);

/// Ensures the shared part of the topology, unless it was ensured before.
pub(super) async fn ensure_shared(up: &LiveConnection, setup: &Setup) -> Result<(), OpenError> {
    let mut ensured = setup.shared_ensured.lock().await;
    if ensured.is_none() {
        ensure(up, setup, &setup.topology.shared()).await?;
        *ensured = Some(Instant::now());
    }
    Ok(())
}

/// Makes the next [`ensure_shared`] check again, because an object was missing at that time. One check serves every
/// caller that found something missing before it.
pub(super) async fn invalidate_shared(setup: &Setup, missing_at: Instant) {
    let mut ensured = setup.shared_ensured.lock().await;
    if ensured.is_some_and(|at| at < missing_at) {
        *ensured = None;
    }
}

/// Returns a time for [`invalidate_shared`] if the caller does not know when an object was missing.
pub(super) fn lately() -> Instant {
    let now = Instant::now();
    now.checked_sub(JUST_ENSURED).unwrap_or(now)
}

/// Declares a queue that belongs to this connection, and that is deleted with its consumer.
pub(super) async fn declare_replies(up: &LiveConnection, queue: &str) -> Result<(), OpenError> {
    let channel = OwnChannel(open(up).await?);
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    // The broker deletes the queue too if its consumer never comes.
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(UNUSED_MS));
    let declaring = up.unless_lost(channel.0.queue_declare(short(queue), options, arguments));
    match timeout(ANSWERED_WITHIN, declaring).await {
        Ok(declared) => declared.map(drop).map_err(|reason| OpenError::Passing(format!("queue {queue:?}: {reason}"))),
        Err(_) => Err(OpenError::Passing(format!("queue {queue:?}: no answer within {ANSWERED_WITHIN:?}"))),
    }
}

/// Ensures a queue and all objects that it requires.
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

/// Declares the plan, or only verifies it, by the settings. It uses a channel of its own, because a refusal closes the
/// channel.
pub(super) async fn ensure(up: &LiveConnection, setup: &Setup, plan: &Plan) -> Result<(), OpenError> {
    let ensured = async {
        match setup.mode {
            TopologyMode::Declare => declare(up, plan).await,
            TopologyMode::Verify => verify(up, plan).await,
        }
    };
    let channel = tokio::select! {
        // A refusal that ends the connection is a better reason than the loss.
        biased;
        ensured = ensured => ensured?,
        () = up.lost.cancelled() => return Err(OpenError::Passing("the connection was lost".to_owned())),
        () = sleep(ANSWERED_WITHIN) => {
            return Err(OpenError::Passing(format!("no answer from the broker within {ANSWERED_WITHIN:?}")));
        }
    };
    up.unless_lost(channel.close(200, "declared".into())).await.map_err(OpenError::Passing)
}

/// Declares a plan of objects that belong to this connection, whatever the settings say about the topology.
pub(super) async fn ensure_own(up: &LiveConnection, plan: &Plan) -> Result<(), OpenError> {
    let declared = tokio::select! {
        biased;
        declared = declare(up, plan) => declared,
        () = up.lost.cancelled() => return Err(OpenError::Passing("the connection was lost".to_owned())),
        () = sleep(ANSWERED_WITHIN) => {
            return Err(OpenError::Passing(format!("no answer from the broker within {ANSWERED_WITHIN:?}")));
        }
    };
    up.unless_lost(declared?.close(200, "declared".into())).await.map_err(OpenError::Passing)
}

/// Sends all declarations at once: the broker handles the commands of a channel in their order. The first to fail is
/// the refused one; later ones fail with their channel.
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

/// AMQP can verify only existence, not arguments or bindings.
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

/// Returns the channel to continue with after a check.
///
/// From 4.2.6 on RabbitMQ hides objects from a user without permission on them. This user cannot verify such an object.
/// If it has to read or write the object itself, it finds it missing or forbidden then.
async fn unless_hidden(
    up: &LiveConnection,
    channel: Channel,
    found: Result<(), Refused>,
) -> Result<Channel, OpenError> {
    match found {
        Err(refusal) if refusal.is_missing_permission() => {
            tracing::debug!(name = refusal.name, "not verified: it is hidden from this user");
            open(up).await
        }
        found => Ok(found.map(|()| channel)?),
    }
}

pub(super) async fn open(up: &LiveConnection) -> Result<Channel, OpenError> {
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
    let (durable, exclusive) = (!queue.exclusive, queue.exclusive);
    let options = QueueDeclareOptions { passive, durable, exclusive, ..QueueDeclareOptions::default() };
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

/// Runs a command; its refusal names the object.
pub(super) async fn refusable(name: String, command: impl Future<Output = lapin::Result<()>>) -> Result<(), Refused> {
    command.await.map_err(|error| Refused { name, error })
}

/// Returns whether the broker's text on a failed precondition means other arguments. A reached limit and an unknown
/// argument have the same reply code.
/// Returns the permission that a refused binding lacks, if the broker names it. A declaration lacks configure.
fn missing_permission(detail: &str) -> Option<&str> {
    let (before, _) = detail.split_once(" access to ")?;
    before.rsplit(' ').next().filter(|permission| ["read", "write"].contains(permission))
}

pub(super) fn is_mismatch(detail: &str) -> bool {
    detail.contains("inequivalent arg")
}

/// The refusal of one declaration.
pub(super) struct Refused {
    name: String,
    error: lapin::Error,
}

impl Refused {
    /// Returns whether an object that it requires does not exist.
    pub(super) fn is_missing_object(&self) -> bool {
        let ErrorKind::ProtocolError(protocol) = self.error.kind() else { return false };
        matches!(protocol.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
    }

    fn is_missing_permission(&self) -> bool {
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
                let remedy = "Leveret requires RabbitMQ 3.10 or newer";
                Self::Fatal(Error::Undeclarable { name, detail, remedy })
            }
            AMQPErrorKind::Hard(_) if detail.contains("feature flag is disabled") => {
                let remedy = "Enable it on the cluster: rabbitmqctl enable_feature_flag all";
                Self::Fatal(Error::Undeclarable { name, detail, remedy })
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Passing(match missing_permission(&detail) {
                Some(permission) => format!("{name}: {detail}. Grant {permission} permission on it"),
                None => format!(
                    "{name}: {detail}. Grant configure permission (for a binding, write on its queue and read on its \
                     exchange), or declare the topology as another user and start with LEVERET_TOPOLOGY=verify"
                ),
            }),
            AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => Self::Passing(format!("{name}: {detail}")),
        }
    }
}
