//! Declares a plan, or verifies that it is there.

use lapin::{
    Channel, ErrorKind, ExchangeKind as LapinKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable},
};

use super::{Setup, connection::Up};
use crate::{
    broker::OpenError,
    config::TopologyMode,
    error::Error,
    message::{short, text},
    topology::{Argument, Binding, Destination, Exchange, ExchangeKind, Plan, QueuePlan},
};

/// Ensures what all queues share, once for each connection.
pub(super) async fn ensure_shared(up: &Up, setup: &Setup) -> Result<(), OpenError> {
    let mut ensured = up.shared_topology.lock().await;
    if !*ensured {
        ensure(up, setup, &setup.topology.shared()).await?;
        *ensured = true;
    }
    Ok(())
}

/// Declares the plan, or only verifies it, as the settings say. It has a channel of its own: a refusal closes that.
pub(super) async fn ensure(up: &Up, setup: &Setup, plan: &Plan) -> Result<(), OpenError> {
    let ensured = async {
        match setup.mode {
            TopologyMode::Declare => declare(up, plan).await,
            TopologyMode::Verify => verify(up, plan).await,
        }
    };
    let channel = tokio::select! {
        ensured = ensured => ensured?,
        () = up.lost.cancelled() => return Err(OpenError::Passing("the connection was lost".to_owned())),
    };
    up.unless_lost(channel.close(200, "declared".into())).await.map_err(OpenError::Passing)
}

async fn declare(up: &Up, plan: &Plan) -> Result<Channel, OpenError> {
    let channel = open(up).await?;
    for exchange in &plan.exchanges {
        declare_exchange(&channel, exchange, false).await?;
    }
    for queue in &plan.queues {
        declare_queue(&channel, queue, queue.adopted).await?;
    }
    for binding in &plan.bindings {
        bind(&channel, binding).await?;
    }
    Ok(channel)
}

/// AMQP can verify existence only, not arguments or bindings.
async fn verify(up: &Up, plan: &Plan) -> Result<Channel, OpenError> {
    let mut channel = open(up).await?;
    for exchange in &plan.exchanges {
        let found = declare_exchange(&channel, exchange, true).await;
        channel = unless_hidden(up, channel, found).await?;
    }
    for queue in &plan.queues {
        let found = declare_queue(&channel, queue, true).await;
        channel = unless_hidden(up, channel, found).await?;
    }
    Ok(channel)
}

/// The channel to go on with after looking for something.
///
/// From 4.2.6 on RabbitMQ keeps from a user what it has no right to. That is not this user's to verify: what it has to
/// read or write itself, it finds missing or forbidden when it does.
async fn unless_hidden(up: &Up, channel: Channel, found: Result<(), Refusal>) -> Result<Channel, OpenError> {
    match found {
        Err(refusal) if refusal.is_for_lack_of_a_right() => {
            tracing::debug!(name = refusal.name, "not verified: it is hidden from this user");
            open(up).await
        }
        found => Ok(found.map(|()| channel)?),
    }
}

async fn open(up: &Up) -> Result<Channel, OpenError> {
    up.unless_lost(up.connection.create_channel()).await.map_err(OpenError::Passing)
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange, passive: bool) -> Result<(), Refusal> {
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
    let declared = channel.exchange_declare(short(&exchange.name), kind, options, arguments).await;
    declared.map_err(|error| Refusal { name: format!("exchange {:?}", exchange.name), error })
}

async fn declare_queue(channel: &Channel, queue: &QueuePlan, passive: bool) -> Result<(), Refusal> {
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
    let declared = channel.queue_declare(short(&queue.name), options, arguments).await;
    declared.map(drop).map_err(|error| Refusal { name: format!("queue {:?}", queue.name), error })
}

async fn bind(channel: &Channel, binding: &Binding) -> Result<(), Refusal> {
    let (source, key, none) = (short(&binding.source), short(&binding.key), FieldTable::default());
    let (name, bound) = match &binding.destination {
        Destination::Queue(queue) => {
            let options = QueueBindOptions::default();
            (queue, channel.queue_bind(short(queue), source, key, options, none).await)
        }
        Destination::Exchange(exchange) => {
            let options = ExchangeBindOptions::default();
            (exchange, channel.exchange_bind(short(exchange), source, key, options, none).await)
        }
    };
    bound.map_err(|error| Refusal { name: format!("binding of {name:?} to {:?}", binding.source), error })
}

/// Why a part of a plan is not there.
struct Refusal {
    name: String,
    error: lapin::Error,
}

impl Refusal {
    fn is_for_lack_of_a_right(&self) -> bool {
        let ErrorKind::ProtocolError(protocol) = self.error.kind() else { return false };
        matches!(protocol.kind(), AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))
    }
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { name, error } = refusal;
        let ErrorKind::ProtocolError(protocol) = error.kind() else { return Self::Passing(error.to_string()) };
        let detail = protocol.get_message().to_string();
        match protocol.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Self::Fatal(Error::Mismatch { name, detail }),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Passing(format!(
                "{name}: {detail}. Grant the configure right, or declare the topology as another user and start with \
                 LEVERET_TOPOLOGY=verify"
            )),
            AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => Self::Passing(format!("{name}: {detail}")),
        }
    }
}
