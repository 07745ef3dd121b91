//! The way of a reply: to a queue that is gone, forged or forbidden, over a connection that is lost or blocked.

use std::sync::{Arc, atomic::Ordering};

use lapin::BasicProperties;
use leveret::{Broker, Context, Job, JobResult, Queue, Worker, testing};
use leveret_harness::{Node, NodeOptions, TestVhost, eventually, shared_node};
use leveret_tests::jobs::{Act, Script, script};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{GetQuote, Quote, SECOND, ask, quoting, worker};
use crate::support::{self, LONG, RunFile, broker};

async fn publish_with_reply_to(place: &support::Place, reply_to: &str) {
    let properties = BasicProperties::default().with_type("quote".into()).with_reply_to(reply_to.into());
    place.raw().await.publish("leveret.v1.jobs", &place.queue, properties, br#"{"item": "tea"}"#).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_queue_that_is_gone_costs_the_job_nothing_and_is_counted() {
    let (place, running, runs) = quoting("gone", |queue| queue).await;
    publish_with_reply_to(&place, "leveret.v1.reply.gone").await;
    publish_with_reply_to(&place, "amq.rabbitmq.reply-to.gone").await;
    eventually("both ran", LONG, async || runs.load(Ordering::SeqCst) == 2).await;
    let lost = r#"leveret_replies_total{outcome="lost"} 1"#;
    eventually("the reply is lost", LONG, async || place.broker.metrics_text().contains(lost)).await;
    running.stop().await.unwrap();
    assert_eq!(place.raw().await.depth(&place.queue).await.unwrap(), Some(0), "both are acked");
}

/// The connections on which a vhost's clients publish jobs.
async fn publishing_connections(vhost: &TestVhost) -> Vec<String> {
    let list = ["list_connections", "--no-table-headers", "vhost", "pid", "client_properties"];
    let listed = vhost.node().ctl(&list).await.unwrap();
    let of_jobs =
        |line: &&str| line.split_whitespace().next() == Some(vhost.name()) && line.contains(r#"{"role","publish"}"#);
    listed.lines().filter(of_jobs).map(str::to_owned).collect()
}

/// Answers as soon as its worker has lost a connection.
async fn quote_after_a_loss(_: GetQuote, ctx: Context<(Broker, CancellationToken)>) -> JobResult<Quote> {
    let (broker, started) = ctx.state();
    started.cancel();
    while broker.metrics_text().contains("leveret_reconnects_total 0") {
        tokio::time::sleep(SECOND / 1_000).await;
    }
    Ok(Quote { cents: 350 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_waits_for_the_connection_that_publishes_it() {
    let vhost = shared_node().await.vhost().await;
    let (calling, working) = (broker(&vhost.url()), broker(&vhost.url()));
    let started = CancellationToken::new();
    let worker = Worker::new((working.clone(), started.clone())).queue(Queue::new("quotes"));
    let worker = worker.handle_with(quote_after_a_loss, |h| h.queue("quotes"));
    let running = testing::start(worker, &working).await.unwrap();
    let asked = tokio::spawn(async move { ask(&calling, "quotes", "tea", LONG).await });
    started.cancelled().await;
    // Both have a connection to publish on by then; the caller does not wait on its own.
    working.publisher().publish(&GetQuote { item: "tea".into() }).await.unwrap();
    for connection in publishing_connections(&vhost).await {
        let pid = connection.split_whitespace().nth(1).unwrap();
        vhost.node().ctl(&["close_connection", pid, "a test"]).await.unwrap();
    }
    assert_eq!(asked.await.unwrap().unwrap(), Quote { cents: 350 });
    assert!(working.metrics_text().contains(r#"leveret_replies_total{outcome="lost"} 0"#));
    running.stop().await.unwrap();
}

/// Texts after `amq.rabbitmq.reply-to.` that no broker writes.
const FORGED: [&str; 8] = ["", "a", "a.b", "a.b.c", "YQ==.YQ==", "YQ==", "g2EB.g2EB", "~.~"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_direct_reply_to_ends_no_connection_that_publishes_jobs() {
    let vhost = shared_node().await.vhost().await;
    let place = support::Place { queue: "quotes".into(), ..support::Place::at(&vhost.url(), "forged") };
    let (worker, runs) = worker(&place.queue, |queue| queue);
    let running = testing::start(worker, &place.broker).await.unwrap();
    assert_eq!(ask(&place.broker, &place.queue, "tea", LONG).await.unwrap(), Quote { cents: 350 });
    let before = publishing_connections(&vhost).await;
    assert_eq!(before.len(), 1, "{before:?}");
    for (forged, n) in FORGED.iter().zip(2..) {
        publish_with_reply_to(&place, &format!("amq.rabbitmq.reply-to.{forged}")).await;
        eventually("it ran", LONG, async || runs.load(Ordering::SeqCst) == n).await;
    }
    let done = r#"outcome="succeeded",queue="quotes"} 9"#;
    eventually("all are done", LONG, async || place.broker.metrics_text().contains(done)).await;
    assert_eq!(ask(&place.broker, &place.queue, "tea", LONG).await.unwrap(), Quote { cents: 350 });
    assert_eq!(publishing_connections(&vhost).await, before);
    assert!(place.broker.metrics_text().contains("leveret_reconnects_total 0"), "a forger makes no lost connections");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_direct_reply_tos_fill_no_log() {
    let (place, file) = (support::Place::shared("forgers").await, RunFile::new());
    let worker = place.process(&file, &[]);
    place.declared().await;
    let body = serde_json::to_vec(&script("forged", [Act::Succeed])).unwrap();
    for (forged, n) in FORGED.iter().zip(1..) {
        let to = format!("amq.rabbitmq.reply-to.{forged}");
        let properties = BasicProperties::default().with_type(Script::NAME.into()).with_reply_to(to.as_str().into());
        place.raw().await.publish("leveret.v1.jobs", &place.queue, properties, &body).await.unwrap();
        file.until("it ran", |lines| lines.iter().filter(|line| line.ended && line.label == "forged").count() == n)
            .await;
    }
    worker.sigterm();
    worker.wait_exit(LONG).await;
    assert_eq!(worker.count("lost the connection to the broker"), 1, "{:#?}", worker.lines());
    assert_eq!(worker.count(r#"connected to the broker role="reply""#), 1, "{:#?}", worker.lines());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_to_that_is_a_job_queue_is_not_answered_there_unless_the_workers_queue_allows_it() {
    let victim = support::Place::shared("victim").await;
    victim.declare().await;
    let depth = async || victim.raw().await.depth(&victim.queue).await.unwrap();
    let (place, running, _) = quoting("forging", |queue| queue).await;
    publish_with_reply_to(&place, &victim.queue).await;
    let refused = r#"leveret_replies_total{outcome="not_allowed"} 1"#;
    eventually("it is done", LONG, async || place.broker.metrics_text().contains(refused)).await;
    running.stop().await.unwrap();
    assert_eq!(depth().await, Some(0));
    let (place, running, _) = quoting("allowing", Queue::reply_anywhere).await;
    publish_with_reply_to(&place, &victim.queue).await;
    eventually("it is answered", LONG, async || depth().await == Some(1)).await;
    running.stop().await.unwrap();
}

/// Counts itself as started, and answers when it is permitted to.
async fn quote_when_permitted(_: GetQuote, ctx: Context<[Arc<Semaphore>; 2]>) -> JobResult<Quote> {
    let [started, permitted] = ctx.state();
    started.add_permits(1);
    permitted.acquire().await?.forget();
    Ok(Quote { cents: 350 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_waits_while_the_broker_accepts_no_publishes() {
    let node = Node::start(NodeOptions::default()).await;
    let (calling, working) = (broker(&node.url()), broker(&node.url()));
    let [started, permitted] = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
    let worker = Worker::new([Arc::clone(&started), Arc::clone(&permitted)]).queue(Queue::new("quotes"));
    let running =
        testing::start(worker.handle_with(quote_when_permitted, |h| h.queue("quotes")), &working).await.unwrap();
    let asked = [(), ()].map(|()| {
        let calling = calling.clone();
        tokio::spawn(async move { ask(&calling, "quotes", "tea", LONG).await })
    });
    drop(started.acquire_many(2).await.unwrap());
    node.eval("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).").await.unwrap();
    // RabbitMQ reports its alarm to a connection when that publishes: by the first reply.
    permitted.add_permits(1);
    eventually("it is blocked", LONG, async || working.metrics_text().contains("leveret_broker_blocked 1")).await;
    permitted.add_permits(1);
    node.eval("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).").await.unwrap();
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap(), Quote { cents: 350 });
    }
    running.stop().await.unwrap();
}
