//! Events on RabbitMQ alone: foreign publishers, lost connections, queues that are gone.

use leveret::event_log::{self, EventLog, Start};
use tokio::time::timeout;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_event_is_named_by_its_routing_key_and_its_copies_by_its_type() {
    let test = Test::new(crate::contract::on_rabbitmq("foreign-event").await).await;
    let twice = RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(2);
    let running = test.start(test.worker("one").subscribe(test.subscription("warehouse").retry(twice), placed)).await;
    let client = RawClient::connect(test.url()).await.unwrap();
    let body = format!(r#"{{"run": "{}", "text": "bad foreign"}}"#, test.seen.run);
    let properties = lapin::BasicProperties::default().with_message_id("f-1".into());
    client.publish("leveret.v1.topics", Placed::TOPIC, properties, body.as_bytes()).await.unwrap();
    let letters = test.letters("warehouse", 1).await;
    running.stop().await.unwrap();
    assert_eq!(test.seen.until(2).await, ["one placed bad foreign 1", "one placed bad foreign 2"]);
    assert_eq!((letters[0].job.as_deref(), letters[0].id.as_deref()), (Some(Placed::TOPIC), Some("f-1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_event_becomes_a_dead_letter_after_its_attempts() {
    let test = Test::new(crate::contract::on_rabbitmq("unknown-event").await).await;
    let twice = RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(2);
    let subscription = || test.subscription("warehouse").retry(twice.clone());
    test.start(test.worker("new").subscribe(subscription(), sent)).await.stop().await.unwrap();
    let old = test.start(test.worker("old").subscribe(subscription(), placed)).await;
    test.send("unknown").await;
    let letters = test.letters("warehouse", 1).await;
    old.stop().await.unwrap();
    assert_eq!((letters[0].kind, letters[0].attempt), (Some(ErrorKind::UnknownJob), 2));
    assert!(letters[0].reason.contains(Sent::TOPIC), "{}", letters[0].reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_loses_its_connection_gets_events_again_once_it_is_back() {
    let test = Test::new(crate::contract::on_rabbitmq("each-reconnects").await).await;
    let proxy = Proxy::start(test.url()).await;
    let broker = Broker::amqp(Config { amqp_url: vec![proxy.url().to_owned()], ..Config::default() }).unwrap();
    let worker = test.worker("one").subscribe(Subscription::each_process(), placed);
    let running = start(worker, &broker).await.unwrap();
    test.place("before").await;
    test.seen.until(1).await;
    proxy.cut();
    eventually("events come again", LONG, async || {
        test.place("after").await;
        test.seen.lines.lock().unwrap().iter().any(|line| line == "one placed after 1")
    })
    .await;
    running.stop().await.unwrap();
}

/// Waits for permission to end.
async fn wait(event: Placed, ctx: Context<(Arc<Semaphore>, Seen)>) -> JobResult {
    let (gate, seen) = ctx.state();
    if event.run != seen.run {
        return Ok(());
    }
    seen.add(&event.run, format!("started {}", event.text));
    gate.acquire().await?.forget();
    seen.add(&event.run, format!("done {}", event.text));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_outlasts_the_queue_of_its_process_counts_as_no_lost_ack() {
    let test = Test::new(crate::contract::on_rabbitmq("each-outlasted").await).await;
    let proxy = Proxy::start(test.url()).await;
    let broker = Broker::amqp(Config { amqp_url: vec![proxy.url().to_owned()], ..Config::default() }).unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let worker = Worker::new((Arc::clone(&gate), test.seen.clone())).subscribe(Subscription::each_process(), wait);
    let running = start(worker, &broker).await.unwrap();
    test.place("long").await;
    test.seen.until(1).await;
    proxy.cut();
    eventually("it consumes again", LONG, async || {
        test.place("after").await;
        test.seen.lines.lock().unwrap().iter().any(|line| line == "started after")
    })
    .await;
    gate.add_permits(1_000);
    eventually("the first one is done", LONG, async || {
        test.seen.lines.lock().unwrap().iter().any(|line| line == "done long")
    })
    .await;
    running.stop().await.unwrap();
    let text = broker.metrics_text();
    let counted = text.lines().find(|line| line.starts_with("leveret_acks_lost_total{queue=\"each-process\"}"));
    assert_eq!(counted, Some("leveret_acks_lost_total{queue=\"each-process\"} 0"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_exchange_is_deleted_is_bound_again_while_it_is_read() {
    let test = Test::new(crate::contract::on_rabbitmq("unbound-log").await).await;
    event_log::declare(&test.place.broker).await.unwrap();
    let mut log = EventLog::open(&test.place.broker, Start::First).await.unwrap();
    test.place("before").await;
    assert_eq!(log.next().await.unwrap().topic(), Placed::TOPIC);
    let client = RawClient::connect(test.url()).await.unwrap();
    client.delete_exchange("leveret.v1.topics").await.unwrap();
    eventually("the log has events again", LONG, async || {
        test.place("after").await;
        timeout(Duration::from_millis(200), log.next()).await.is_ok()
    })
    .await;
}
