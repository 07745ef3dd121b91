//! The users of `leveret topology export --users` against RabbitMQ: each can do its part with the exported rights.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, BasicPublishOptions},
    types::FieldTable,
};
use leveret::{
    Batch, Batching, Broker, Config, Context, Event, Job, JobResult, PublishError, Queue, RequestError, RetryPolicy,
    Subscription, TopologyMode, Worker,
    event_log::{self, EventLog, Start},
    testing,
};
use leveret_harness::{Permissions, RawClient, TestVhost, eventually, shared_node};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    post::LONG,
    topology::{export, owner},
};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "quote", queue = "quotes", output = u64)]
struct GetQuote;

#[derive(Serialize, Deserialize, Job)]
#[job(name = "row", queue = "rows")]
struct Row;

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
struct Placed;

/// The runs of each handler.
#[derive(Default)]
struct Runs {
    rows: AtomicU32,
    reserved: AtomicU32,
    forgotten: AtomicU32,
}

async fn quote(_: GetQuote, _: Context<Arc<Runs>>) -> JobResult<u64> {
    Ok(350)
}

/// The first batch fails, so that its jobs are published again.
async fn insert(batch: Batch<Row, Arc<Runs>>) -> JobResult {
    let jobs = u32::try_from(batch.len())?;
    if batch.state().rows.fetch_add(jobs, Ordering::SeqCst) == 0 { Err("the table is locked".into()) } else { Ok(()) }
}

async fn reserve(_: Placed, ctx: Context<Arc<Runs>>) -> JobResult {
    ctx.state().reserved.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

async fn forget(_: Placed, ctx: Context<Arc<Runs>>) -> JobResult {
    ctx.state().forgotten.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

fn worker(runs: &Arc<Runs>) -> Worker<Arc<Runs>> {
    Worker::new(Arc::clone(runs))
        .queue(Queue::new("rows").retry(RetryPolicy::fixed(Duration::from_millis(100))))
        .handle(quote)
        .handle_batch(Batching::up_to(10).within(Duration::from_millis(100)), insert)
        .subscribe(Subscription::new("warehouse"), reserve)
        .subscribe(Subscription::each_process(), forget)
}

/// Creates the exported user in the vhost. Returns its address.
async fn user(vhost: &TestVhost, exported: &Value, name: &str) -> String {
    let rights = exported["permissions"].as_array().unwrap().iter().find(|rights| rights["user"] == name).unwrap();
    let of = |kind: &str| rights[kind].as_str().unwrap();
    let permissions = Permissions { configure: of("configure"), write: of("write"), read: of("read") };
    let unique = leveret_harness::unique(name);
    vhost.node().add_user(&unique, "secret", vhost.name(), permissions).await.unwrap();
    vhost.url_for(&unique, "secret")
}

fn verifying(url: String) -> Broker {
    Broker::amqp(Config { amqp_url: vec![url], topology: TopologyMode::Verify, ..Config::default() }).unwrap()
}

/// Sends a request as other clients do. Returns the reply.
async fn ask_directly(url: &str) -> Vec<u8> {
    const DIRECT: &str = "amq.rabbitmq.reply-to";
    let client = RawClient::connect(url).await.unwrap();
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let replies = client.channel().basic_consume(DIRECT.into(), "".into(), no_ack, FieldTable::default());
    let mut replies = replies.await.unwrap();
    let properties = BasicProperties::default().with_type("quote".into()).with_reply_to(DIRECT.into());
    let options = BasicPublishOptions::default();
    let sent = client.channel().basic_publish("leveret.v1.jobs".into(), "quotes".into(), options, b"null", properties);
    sent.await.unwrap().await.unwrap();
    let reply = tokio::time::timeout(LONG, futures_util::StreamExt::next(&mut replies)).await;
    reply.unwrap().unwrap().unwrap().data
}

const NAMED: [&str; 9] =
    ["--vhost", "/", "--queue", "quotes", "--queue", "rows", "--subscription", "warehouse=order.placed", "--users"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exported_users_can_request_reply_emit_subscribe_await_results_and_read_the_log() {
    let vhost = shared_node().await.vhost().await;
    let uses = ["--requests", "--results", "--each-process", "--event-log"];
    let exported = export("amqp://127.0.0.1:1", &[&NAMED[..], &uses].concat()).await.ends(0).json();
    let runs = Arc::<Runs>::default();
    let setting_up = owner(&user(&vhost, &exported, "set-up").await);
    testing::start(worker(&runs), &setting_up).await.unwrap().stop().await.unwrap();
    event_log::declare(&setting_up).await.unwrap();

    let working = verifying(user(&vhost, &exported, "worker").await);
    let running = testing::start(worker(&runs), &working).await.unwrap();
    let calling = verifying(user(&vhost, &exported, "publisher").await);
    let (publisher, foreign) = (calling.publisher(), user(&vhost, &exported, "foreign").await);
    assert_eq!(publisher.request(&GetQuote).timeout(LONG).await.unwrap(), 350);
    assert_eq!(ask_directly(&foreign).await, b"350");
    let mut job = publisher.publish(&GetQuote).with_result().await.unwrap();
    let result: u64 = tokio::time::timeout(LONG, job.result()).await.expect("the result comes").unwrap();
    assert_eq!(result, 350);
    for _ in 0..3 {
        publisher.publish(&Row).await.unwrap();
    }
    eventually("the rows are stored", LONG, async || {
        working.metrics_text().contains(r#"leveret_jobs_finished_total{job="row",outcome="succeeded",queue="rows"} 3"#)
    })
    .await;
    assert!(runs.rows.load(Ordering::SeqCst) > 3, "a batch was retried");
    publisher.emit(&Placed).await.unwrap();
    let raw = RawClient::connect(&foreign).await.unwrap();
    raw.publish("leveret.v1.topics", "order.placed", BasicProperties::default(), b"null").await.unwrap();
    eventually("both subscriptions have both events", LONG, async || {
        runs.reserved.load(Ordering::SeqCst) == 2 && runs.forgotten.load(Ordering::SeqCst) == 2
    })
    .await;
    let mut log = EventLog::open(&working, Start::First).await.unwrap();
    for _ in 0..2 {
        let event = tokio::time::timeout(LONG, log.next()).await.expect("the log has it").unwrap();
        assert_eq!(event.topic(), "order.placed");
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_flags_publishers_cannot_request_nor_await_results_and_workers_cannot_read_the_log() {
    let vhost = shared_node().await.vhost().await;
    let exported = export("amqp://127.0.0.1:1", &NAMED).await.ends(0).json();
    let owner = owner(&vhost.url());
    testing::start(worker(&Arc::default()), &owner).await.unwrap().stop().await.unwrap();
    event_log::declare(&owner).await.unwrap();
    let publisher = verifying(user(&vhost, &exported, "publisher").await).publisher();
    let refused = publisher.request(&GetQuote).timeout(Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(refused, RequestError::Publish(PublishError::Unavailable { .. })), "{refused}");
    let refused = publisher.publish(&GetQuote).with_result().await.err().unwrap();
    assert!(matches!(refused, PublishError::Results { .. }), "{refused}");
    publisher.emit(&Placed).await.unwrap();
    let working = verifying(user(&vhost, &exported, "worker").await);
    assert!(EventLog::open(&working, Start::First).await.is_err());
}
