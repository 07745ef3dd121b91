//! The scenario of events: emitted to 1, 10 and 100 subscriptions, and drained from one.

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use leveret::Event;

use crate::{
    assignment::{Assignment, Client, Consumer, Emit, Mail, Work},
    baseline::properties,
    bench::Bench,
    broker::Kind,
    contest::{Drain, LEVERET, contest, measure},
    measures::{Measure, Table},
    meter::Meter,
    worker,
};

pub(crate) const TO_1: &str = "events: emitted to 1 subscription, 200 B";
pub(crate) const TO_10: &str = "events: emitted to 10 subscriptions, 200 B";
pub(crate) const TO_100: &str = "events: emitted to 100 subscriptions, 200 B";
const ONE_BY_ONE: &str = "leveret, one by one";
pub(crate) const PIPELINED: &str = "leveret, pipelined";
/// A publisher that is written by hand, to the same exchange and queues.
pub(crate) const HAND_WRITTEN: &str = "lapin, pipelined";
pub(crate) const DRAINED: &str = "events: drain of a subscription, prefetch 100";
pub(crate) const SUBSCRIPTION: &str = "leveret, a subscription";

/// Events in flight.
const WINDOW: usize = 1_024;
/// The size of an event, in bytes.
const BYTES: usize = 200;

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for (scenario, subscriptions, jobs) in [(TO_1, 1, 50_000), (TO_10, 10, 10_000), (TO_100, 100, 2_000)] {
        if bench.selects(scenario) {
            tables.push(emitted(bench, scenario, subscriptions, bench.jobs(jobs)).await?);
        }
    }
    let drain = Drain { jobs: bench.jobs(60_000), ..Drain::default() };
    let kinds = [(LEVERET, Kind::Quorum), (SUBSCRIPTION, Kind::Subscription)];
    let drained = contest(bench, DRAINED, &kinds, async |kind| {
        Drain { kind, ..drain }.run(bench.broker()?, Consumer::Leveret, Work::Nothing).await
    });
    tables.push(drained.await?);
    Ok(tables)
}

async fn emitted(bench: &Bench, scenario: &str, subscriptions: usize, jobs: u64) -> Result<Table> {
    let broker = bench.broker()?;
    let mut queues = Vec::new();
    for _ in 0..subscriptions {
        queues.push(broker.queue(Kind::Subscription).await?);
    }
    let contestants = [
        (PIPELINED, (Client::Leveret, WINDOW)),
        (HAND_WRITTEN, (Client::Lapin, WINDOW)),
        (ONE_BY_ONE, (Client::Leveret, 1)),
        ("lapin, one by one", (Client::Lapin, 1)),
    ];
    let table = contest(bench, scenario, &contestants, async |(client, window)| {
        let jobs = if window == 1 { jobs / 10 } else { jobs };
        broker.rest().await;
        let emit = Emit { client, url: broker.url().to_owned(), jobs, window };
        let mut sample = measure(&Assignment::Emit(emit), Some(broker)).await?;
        for queue in &queues {
            anyhow::ensure!(broker.purge(queue).await? == jobs, "not every subscription has every event");
        }
        sample.remove(&Measure::StartMs);
        if let Some(rate) = sample.remove(&Measure::JobsPerSecond) {
            sample.insert(Measure::EventsPerSecond, rate);
            sample.insert(Measure::CopiesPerSecond, rate * subscriptions as f64);
        }
        Ok(sample)
    });
    let table = table.await;
    for queue in &queues {
        broker.delete(queue, false).await?;
    }
    table
}

/// Emits all events, confirmed.
pub(crate) async fn emit(assignment: Emit, meter: &Meter) -> Result<()> {
    match assignment.client {
        Client::Leveret => with_leveret(assignment, meter).await,
        Client::Lapin => by_hand(assignment, meter).await,
    }
}

async fn with_leveret(assignment: Emit, meter: &Meter) -> Result<()> {
    let broker = worker::open(&assignment.url, None)?;
    let publisher = broker.publisher();
    let emitting = (0..assignment.jobs).map(|number| {
        let emit = publisher.emit(&Mail::new(number, BYTES));
        async move {
            emit.await?;
            meter.count(0);
            anyhow::Ok(())
        }
    });
    stream::iter(emitting).buffer_unordered(assignment.window).try_collect::<()>().await?;
    broker.close().await;
    Ok(())
}

async fn by_hand(assignment: Emit, meter: &Meter) -> Result<()> {
    let connection = Connection::connect(&assignment.url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let channel = &channel;
    let emitting = (0..assignment.jobs).map(|number| async move {
        let body = serde_json::to_vec(&Mail::new(number, BYTES))?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties: BasicProperties = properties().with_type(Mail::TOPIC.into());
        let (exchange, topic) = ("leveret.v1.topics".into(), Mail::TOPIC.into());
        let published = channel.basic_publish(exchange, topic, options, &body, properties).await?.await?;
        anyhow::ensure!(matches!(published, Confirmation::Ack(None)), "an event was refused: {published:?}");
        meter.count(0);
        Ok(())
    });
    stream::iter(emitting).buffer_unordered(assignment.window).try_collect::<()>().await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}
