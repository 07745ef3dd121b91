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
    let channel = up.unless_lost(up.connection.create_channel()).await.map_err(OpenError::Passing)?;
    let ensured = async {
        match setup.mode {
            TopologyMode::Declare => declare(&channel, plan).await,
            TopologyMode::Verify => verify(&channel, plan).await,
        }
    };
    tokio::select! {
        ensured = ensured => ensured?,
        () = up.lost.cancelled() => return Err(OpenError::Passing("the connection was lost".to_owned())),
    }
    up.unless_lost(channel.close(200, "declared".into())).await.map_err(OpenError::Passing)
}

async fn declare(channel: &Channel, plan: &Plan) -> Result<(), OpenError> {
    for exchange in &plan.exchanges {
        declare_exchange(channel, exchange, false).await.map_err(|error| exchange_refused(exchange, &error))?;
    }
    for queue in &plan.queues {
        declare_queue(channel, queue, queue.adopted).await.map_err(|error| queue_refused(queue, &error))?;
    }
    for binding in &plan.bindings {
        bind(channel, binding).await?;
    }
    Ok(())
}

/// AMQP can verify existence only, not arguments or bindings.
async fn verify(channel: &Channel, plan: &Plan) -> Result<(), OpenError> {
    for exchange in &plan.exchanges {
        declare_exchange(channel, exchange, true).await.map_err(|error| exchange_refused(exchange, &error))?;
    }
    for queue in &plan.queues {
        declare_queue(channel, queue, true).await.map_err(|error| queue_refused(queue, &error))?;
    }
    Ok(())
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

async fn bind(channel: &Channel, binding: &Binding) -> Result<(), OpenError> {
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
    bound.map_err(|error| refused(&format!("binding of {name:?} to {:?}", binding.source), &error))
}

fn exchange_refused(exchange: &Exchange, error: &lapin::Error) -> OpenError {
    refused(&format!("exchange {:?}", exchange.name), error)
}

fn queue_refused(queue: &QueuePlan, error: &lapin::Error) -> OpenError {
    refused(&format!("queue {:?}", queue.name), error)
}

/// What the broker's refusal to declare `name` means.
fn refused(name: &str, error: &lapin::Error) -> OpenError {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return OpenError::Passing(error.to_string()) };
    let detail = protocol.get_message().to_string();
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
            OpenError::Fatal(Error::Mismatch { name: name.to_owned(), detail })
        }
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => OpenError::Passing(format!(
            "{name}: {detail}. Grant the configure right, or declare the topology as another user and start with \
             LEVERET_TOPOLOGY=verify"
        )),
        AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => OpenError::Passing(format!("{name}: {detail}")),
    }
}
