//! Measures the difference between this process's clock and the broker's.
//!
//! AMQP has no command for the time. RabbitMQ writes its own time into `x-death` when it dead-letters a message, in
//! whole seconds. So a message is published to a queue in which it expires at once. Both queues are exclusive, so that
//! they cannot outlive their connection.
//!
//! It is unknown which of two different clocks is wrong. So a decision that would destroy or delay a job requires both
//! clocks (`transport/clock.rs`).

use std::time::Duration;

use lapin::{
    BasicProperties, Channel,
    options::{BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::transport::amqp::{Setup, connection::LiveConnection, reconnector::Reconnector};
use crate::{
    config::TopologyMode,
    message::{short, text},
    time::now_ms,
};

/// Interval of measurements, which detect a clock that is set while the process runs.
const MEASURED_EVERY: Duration = Duration::from_secs(600);
/// Interval of measurements while the clocks differ.
const MEASURED_AGAIN: Duration = Duration::from_secs(10);
/// Longest delay of a consumer by a measurement.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);

/// Compares the clocks, unless they were compared recently or this user declares nothing.
///
/// `publishing` is the connection for publishes. A broker in alarm stops reading a connection that publishes, so the
/// consuming connection must not publish.
pub(super) async fn compare(publishing: &Reconnector, setup: &Setup) {
    if setup.mode == TopologyMode::Verify {
        return;
    }
    let mut compared = setup.clock_compared.lock().await;
    let every = if setup.clock.agrees() { MEASURED_EVERY } else { MEASURED_AGAIN };
    if compared.is_some_and(|at| at.elapsed() < every) {
        return;
    }
    *compared = Some(Instant::now());
    let measured = async {
        let up = publishing.up().await.map_err(|_| "closed".to_owned())?;
        if up.blocked.borrow().is_some() {
            return Err("the broker blocks publishes".to_owned());
        }
        measure(&up, setup).await
    };
    match timeout(ANSWERED_WITHIN, measured).await {
        Ok(Ok((sent, broker_seconds, received))) => setup.clock.compare(sent, broker_seconds, received),
        Ok(Err(reason)) => tracing::debug!(error = reason, "the broker's time is unknown"),
        Err(_) => tracing::debug!("the broker's time is unknown: no answer"),
    }
}

/// Returns the broker's time in seconds, and this process's times before and after it in milliseconds.
async fn measure(up: &LiveConnection, setup: &Setup) -> Result<(u64, u64, u64), String> {
    let channel = up.channel().await?;
    let measured = up.unless_lost(through_death(&channel, setup)).await;
    drop(up.unless_lost(channel.close(200, "done".into())).await);
    measured?.ok_or_else(|| "the dead-lettered message has no time".to_owned())
}

async fn through_death(channel: &Channel, setup: &Setup) -> lapin::Result<Option<(u64, u64, u64)>> {
    let (due, first, last) = setup.topology.clock(Uuid::new_v4());
    let due = short(&due);
    let mut expiring = FieldTable::default();
    expiring.insert("x-message-ttl".into(), AMQPValue::LongInt(0));
    expiring.insert("x-dead-letter-exchange".into(), text(due.as_str()));
    expiring.insert("x-dead-letter-routing-key".into(), text(&last));
    for (queue, arguments) in [(&first, expiring), (&last, FieldTable::default())] {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(short(queue), options, arguments).await?;
        let (key, options) = (short(queue), QueueBindOptions::default());
        channel.queue_bind(short(queue), due.clone(), key, options, FieldTable::default()).await?;
    }
    let sent = now_ms();
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    drop(channel.basic_publish(due, short(&first), options, &[], properties).await?);
    let time = loop {
        if let Some(got) = channel.basic_get(short(&last), BasicGetOptions { no_ack: true }).await? {
            let time = death_time(got.delivery.properties.headers().as_ref());
            break time.map(|seconds| (sent, seconds, now_ms()));
        }
        sleep(POLL).await;
    };
    for queue in [first, last] {
        channel.queue_delete(short(&queue), QueueDeleteOptions::default()).await?;
    }
    Ok(time)
}

fn death_time(headers: Option<&FieldTable>) -> Option<u64> {
    let AMQPValue::FieldArray(deaths) = headers?.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    match death.inner().get("time")? {
        AMQPValue::Timestamp(seconds) => Some(*seconds),
        _ => None,
    }
}
