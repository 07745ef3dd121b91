//! The scenario of requests and replies: a caller and a responder, each a process of its own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use leveret::{Context, JobResult, Queue, Worker};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    assignment::{Assignment, Client, Mail, Receipt, Request, Respond},
    baseline::properties,
    bench::Bench,
    broker::Kind,
    child::Child,
    contest::{LEVERET, contest, measure},
    measures::{Measure, Table},
    meter::Meter,
    worker,
};

pub(crate) const ONE_AT_A_TIME: &str = "requests: one at a time, 200 B";
pub(crate) const MANY_AT_ONCE: &str = "requests: 100 at once, 200 B";
/// A caller and a responder that are written by hand.
pub(crate) const HAND_WRITTEN: &str = "lapin, by hand";

/// The size of a request, in bytes.
const BYTES: usize = 200;
const PREFETCH: u16 = 100;
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Table>> {
    let contestants = [(LEVERET, Client::Leveret), (HAND_WRITTEN, Client::Lapin)];
    let mut tables = Vec::new();
    for (scenario, window, jobs) in [(ONE_AT_A_TIME, 1, 3_000), (MANY_AT_ONCE, 100, 30_000)] {
        let table = contest(bench, scenario, &contestants, async |client| {
            let (broker, jobs) = (bench.broker()?, bench.jobs(jobs));
            let (queue, url) = (broker.queue(Kind::Quorum).await?, broker.url().to_owned());
            let respond = Respond { client, url: url.clone(), queue: queue.clone() };
            let responder = Child::start(&Assignment::Respond(respond), &[])?;
            let request = Request { client, url, queue: queue.clone(), jobs, window };
            let sample = measure(&Assignment::Request(request), Some(broker)).await;
            drop(responder);
            broker.delete(&queue, false).await?;
            let mut sample = sample?;
            sample.remove(&Measure::StartMs);
            if let Some(rate) = sample.remove(&Measure::JobsPerSecond) {
                sample.insert(Measure::RequestsPerSecond, rate);
            }
            Ok(sample)
        });
        tables.push(table.await?);
    }
    Ok(tables)
}

/// Sends all requests and waits for their replies.
pub(crate) async fn request(assignment: Request, meter: &Meter) -> Result<()> {
    match assignment.client {
        Client::Leveret => request_with_leveret(assignment, meter).await,
        Client::Lapin => request_by_hand(assignment, meter).await,
    }
}

/// Answers requests, without an end.
pub(crate) async fn respond(assignment: Respond) -> Result<()> {
    match assignment.client {
        Client::Leveret => respond_with_leveret(assignment).await,
        Client::Lapin => respond_by_hand(assignment).await,
    }
}

async fn request_with_leveret(assignment: Request, meter: &Meter) -> Result<()> {
    let Request { url, queue, jobs, window, .. } = assignment;
    let broker = worker::open(&url, None)?;
    let publisher = broker.publisher();
    let ask = async |number| {
        let mail = Mail::new(number, BYTES);
        let receipt = publisher.request(&mail).queue(queue.as_str()).timeout(TIMEOUT).await?;
        check(&mail, &receipt)?;
        anyhow::Ok(mail.sent_us)
    };
    // The responder may still be starting.
    ask(jobs).await?;
    let ask = &ask;
    let asking = (0..jobs).map(|number| async move {
        meter.count(ask(number).await?);
        anyhow::Ok(())
    });
    stream::iter(asking).buffer_unordered(window).try_collect::<()>().await?;
    broker.close().await;
    Ok(())
}

fn check(mail: &Mail, receipt: &Receipt) -> Result<()> {
    anyhow::ensure!(receipt.number == mail.number, "request {} got {receipt:?}", mail.number);
    Ok(())
}

async fn respond_with_leveret(assignment: Respond) -> Result<()> {
    let broker = worker::open(&assignment.url, None)?;
    let queue = Queue::new(assignment.queue.as_str()).prefetch(PREFETCH).concurrency(PREFETCH);
    let worker = Worker::new(()).queue(queue).handle_with(answer, |h| h.queue(&assignment.queue));
    worker.run(&broker, std::future::pending()).await?;
    Ok(())
}

async fn answer(mail: Mail, _ctx: Context<()>) -> JobResult<Receipt> {
    Ok(Receipt::of(&mail))
}

/// The replies that are waited for.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

/// A caller with an exclusive reply queue, whose requests are confirmed and mandatory.
struct Caller {
    channel: Channel,
    queue: String,
    replies: String,
    waiting: Waiting,
}

impl Caller {
    async fn open(connection: &Connection, queue: String) -> Result<Self> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let replies = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().to_string();
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume(replies.as_str().into(), "".into(), no_ack, FieldTable::default()).await?;
        let waiting = Waiting::default();
        tokio::spawn(hand_out(consumer, Arc::clone(&waiting)));
        Ok(Self { channel, queue, replies, waiting })
    }

    async fn ask(&self, mail: &Mail) -> Result<()> {
        let id = Uuid::new_v4().to_string();
        let (sender, reply) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), sender);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = properties().with_reply_to(self.replies.as_str().into()).with_correlation_id(id.into());
        let (body, queue) = (serde_json::to_vec(mail)?, self.queue.as_str().into());
        let published = self.channel.basic_publish("".into(), queue, options, &body, properties).await?.await?;
        anyhow::ensure!(published.is_ack(), "a request was refused: {published:?}");
        let reply = tokio::time::timeout(TIMEOUT, reply).await.context("no reply came in time")??;
        check(mail, &serde_json::from_slice(&reply)?)
    }
}

async fn hand_out(mut consumer: lapin::Consumer, waiting: Waiting) {
    while let Some(Ok(delivery)) = consumer.next().await {
        let id = delivery.properties.correlation_id().as_ref().map(|id| id.as_str());
        let sender = id.and_then(|id| waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id));
        // A caller that waits no more has no use for it.
        drop(sender.map(|sender| sender.send(delivery.data)));
    }
}

async fn request_by_hand(assignment: Request, meter: &Meter) -> Result<()> {
    let Request { url, queue, jobs, window, .. } = assignment;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let caller = &Caller::open(&connection, queue).await?;
    // The responder may still be starting.
    caller.ask(&Mail::new(jobs, BYTES)).await?;
    let asking = (0..jobs).map(|number| async move {
        let mail = Mail::new(number, BYTES);
        caller.ask(&mail).await?;
        meter.count(mail.sent_us);
        anyhow::Ok(())
    });
    stream::iter(asking).buffer_unordered(window).try_collect::<()>().await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Answers each request and then acks it.
async fn respond_by_hand(assignment: Respond) -> Result<()> {
    let connection = Connection::connect(&assignment.url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let (queue, options) = (assignment.queue.as_str().into(), BasicConsumeOptions::default());
    let mut consumer = channel.basic_consume(queue, "bench".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let mail: Mail = serde_json::from_slice(&delivery.data)?;
        let reply_to = delivery.properties.reply_to().clone().context("a request without reply_to")?;
        let id = delivery.properties.correlation_id().clone().context("a request without correlation_id")?;
        let reply = serde_json::to_vec(&Receipt::of(&mail))?;
        let properties =
            BasicProperties::default().with_content_type("application/json".into()).with_correlation_id(id);
        channel.basic_publish("".into(), reply_to, BasicPublishOptions::default(), &reply, properties).await?;
        delivery.ack(BasicAckOptions::default()).await?;
    }
    anyhow::bail!("the consumer was cancelled")
}
