//! Consumers and publishers written by hand on lapin: naive ones and hand-tuned ones.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use leveret::Job;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    assignment::{Consume, Consumer, Mail, Publish, Publisher, Work, now_us},
    meter::Meter,
};

/// Publishes in flight.
const WINDOW: usize = 1024;

/// Consumes with a channel and a task for each queue until all jobs are done.
pub(crate) async fn consume(assignment: Consume, meter: Arc<Meter>) -> Result<()> {
    anyhow::ensure!(assignment.work == Work::Nothing, "the consumers written by hand support only Work::Nothing");
    let connection = Connection::connect(&assignment.url, ConnectionProperties::default()).await?;
    // A channel closes with its last handle, and closing the connection at the same time fails.
    let (mut tasks, mut channels) = (JoinSet::new(), Vec::new());
    for queue in &assignment.queues {
        let channel = connection.create_channel().await?;
        channels.push(channel.clone());
        channel.basic_qos(assignment.prefetch, BasicQosOptions::default()).await?;
        let (queue, options) = (queue.as_str().into(), BasicConsumeOptions::default());
        let consumer = channel.basic_consume(queue, "bench".into(), options, FieldTable::default()).await?;
        let meter = Arc::clone(&meter);
        match assignment.consumer {
            Consumer::Coalesced => tasks.spawn(coalesced(channel, consumer, assignment.prefetch, meter)),
            Consumer::Awaited | Consumer::Leveret | Consumer::LeveretLogging => tasks.spawn(awaited(consumer, meter)),
        };
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    // RabbitMQ 3.10 drops acks that have not reached their quorum queue when their channel is closed.
    tokio::time::sleep(Duration::from_millis(500)).await;
    connection.close(200, "done".into()).await?;
    Ok(())
}

async fn awaited(mut consumer: lapin::Consumer, meter: Arc<Meter>) -> Result<()> {
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery.context("the consumer was cancelled")??,
            () = meter.finished() => return Ok(()),
        };
        let mail: Mail = serde_json::from_slice(&delivery.data)?;
        meter.count(mail.sent_us);
        delivery.ack(BasicAckOptions::default()).await?;
    }
}

/// Acks half the prefetch at once, or fewer as soon as no delivery is ready. An ack is polled once, which queues its
/// frame, and not awaited.
async fn coalesced(channel: Channel, mut consumer: lapin::Consumer, prefetch: u16, meter: Arc<Meter>) -> Result<()> {
    let batch = (prefetch / 2).max(1);
    let (mut last, mut waiting) = (0, 0);
    let ack = |tag| drop(channel.basic_ack(tag, BasicAckOptions { multiple: true }).now_or_never());
    loop {
        let next = match consumer.next().now_or_never() {
            Some(delivery) => delivery,
            None => {
                if waiting > 0 {
                    ack(last);
                    waiting = 0;
                }
                tokio::select! {
                    delivery = consumer.next() => delivery,
                    () = meter.finished() => return Ok(()),
                }
            }
        };
        let delivery = next.context("the consumer was cancelled")??;
        let mail: Mail = serde_json::from_slice(&delivery.data)?;
        meter.count(mail.sent_us);
        (last, waiting) = (delivery.delivery_tag, waiting + 1);
        if waiting >= batch {
            ack(last);
            waiting = 0;
        }
    }
}

/// Publishes all jobs, confirmed.
pub(crate) async fn publish(assignment: Publish, meter: &Meter) -> Result<()> {
    let connection = Connection::connect(&assignment.url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let window = if assignment.publisher == Publisher::LapinPipelined { WINDOW } else { 1 };
    let (channel, queue) = (&channel, assignment.queue.as_str());
    let sending = (0..assignment.jobs).map(|number| async move {
        let mail = Mail::new(number, assignment.bytes);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let body = serde_json::to_vec(&mail)?;
        let published = channel.basic_publish("".into(), queue.into(), options, &body, properties()).await?.await?;
        anyhow::ensure!(matches!(published, Confirmation::Ack(None)), "a publish was refused: {published:?}");
        meter.count(mail.sent_us);
        Ok(())
    });
    stream::iter(sending).buffer_unordered(window).try_collect::<()>().await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// The same properties as those of the framework's jobs.
pub(crate) fn properties() -> BasicProperties {
    let now_us = now_us();
    let mut headers = FieldTable::default();
    let enqueued_at = i64::try_from(now_us / 1_000).unwrap_or(i64::MAX);
    headers.insert("leveret-enqueued-at".into(), AMQPValue::LongLongInt(enqueued_at));
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_timestamp(now_us / 1_000_000)
        .with_type(Mail::NAME.into())
        .with_message_id(Uuid::now_v7().to_string().into())
        .with_headers(headers)
}
