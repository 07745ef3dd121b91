//! Valid, invalid and foreign topologies, permissions and settings.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use leveret::{Broker, Config, Error, PublishError, Queue, TopologyMode, Worker, testing::dead_letters};
use leveret_harness::{Permissions, eventually, shared_node};
use leveret_tests::jobs::{Act, Log, publish, run_script, script, start, worker};

use crate::support::{LONG, Place, RunFile};

fn plain(queue: Queue) -> Queue {
    queue
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_the_configure_right_works_with_least_privileges() {
    let vhost = shared_node().await.vhost().await;
    let queue = "email";
    let owner = Place { queue: queue.to_owned(), ..Place::at(&vhost.url(), "owner") };
    owner.declare().await;
    let permissions = Permissions {
        configure: "^$",
        write: r"^leveret\.v1\.(jobs|dead|delay\..*)$",
        read: r"^email(\.suspect|\.dead)?$",
    };
    let user = leveret_harness::unique("least");
    vhost.node().add_user(&user, "secret", vhost.name(), permissions).await.unwrap();
    let url = vhost.url_for(&user, "secret");
    let config = Config { amqp_url: vec![url.clone()], topology: TopologyMode::Verify, ..Config::default() };
    let least = Broker::amqp(config).unwrap();
    let log = Log::default();
    let retry = leveret::RetryPolicy::fixed(Duration::from_millis(300)).max_attempts(2);
    let running = start(worker(queue, |queue| queue.retry(retry), &log), &least);
    publish(&least, queue, &script("flaky", [Act::Fail("down".into()), Act::Succeed])).await.unwrap();
    publish(&least, queue, &script("wrong", [Act::GiveUp("no".into())])).await.unwrap();
    log.until("the retry has run", |runs| runs.iter().any(|run| run.attempt == 2 && run.finished)).await;
    let dead = async || dead_letters(&least, queue).await.map(|letters| letters.len());
    eventually("the dead letter is kept", LONG, async || dead().await.is_ok_and(|letters| letters == 1)).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_an_error_that_names_the_argument_and_the_way_out() {
    let place = Place::shared("foreign").await;
    place.raw().await.declare_quorum(&place.queue, FieldTable::default()).await.unwrap();
    let log = Log::default();
    let error = start(worker(&place.queue, plain, &log), &place.broker).ended().await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }));
    let shown = error.to_string();
    for part in [place.queue.as_str(), "x-dead-letter", "Queue::existing", "migrate"] {
        assert!(shown.contains(part), "{shown}");
    }
    let file = RunFile::new();
    let process = place.process(&file, &[]);
    let status = process.wait_exit(LONG).await;
    assert!(!status.success());
    assert!(process.lines().iter().any(|line| line.contains("x-dead-letter")), "{:#?}", process.lines());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_queue_can_be_adopted_as_it_is() {
    let place = Place::shared("adopted").await;
    place.raw().await.declare_quorum(&place.queue, FieldTable::default()).await.unwrap();
    let log = Log::default();
    let adopting = Worker::new(log.clone())
        .queue(Queue::existing(place.queue.as_str()).retry(leveret::RetryPolicy::fixed(Duration::from_millis(100))))
        .handle_with(run_script, |h| h.queue(&place.queue));
    let running = start(adopting, &place.broker);
    place.declared().await;
    place.publish(&script("flaky", [Act::Fail("down".into()), Act::Succeed])).await;
    log.until("it is retried", |runs| runs.iter().any(|run| run.attempt == 2 && run.finished)).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_the_queue_refuses_is_nacked() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "full");
    place.declare().await;
    let definition = r#"{"max-length": 3, "overflow": "reject-publish"}"#;
    let pattern = format!("^{}$", place.queue);
    vhost.node().set_policy(vhost.name(), "full", &pattern, definition).await.unwrap();
    let mut nacked = None;
    for _ in 0..200 {
        if let Err(error) = publish(&place.broker, &place.queue, &script("x", [Act::Succeed])).await {
            nacked = Some(error);
            break;
        }
    }
    assert!(matches!(nacked, Some(PublishError::Nacked { .. })), "{nacked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_contradict_each_other_stop_the_start_with_both_numbers() {
    let place = Place::shared("budget").await;
    let log = Log::default();
    let slow = worker(&place.queue, |queue| queue.timeout(Duration::from_secs(3600)), &log);
    let error = start(slow, &place.broker).ended().await.unwrap_err().to_string();
    assert!(error.contains("test.script") && error.contains("3600s") && error.contains("1800s"), "{error}");
    let config = Config { drain_timeout: Duration::from_secs(60), ..place.broker.config().clone() };
    let running = start(worker(&place.queue, plain, &log), &Broker::amqp(config).unwrap());
    let error = running.ended().await.unwrap_err().to_string();
    assert!(error.contains("LEVERET_DRAIN_TIMEOUT") && error.contains("30s"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handlers_of_one_job_stop_the_start() {
    let place = Place::shared("double").await;
    let log = Log::default();
    let double = worker(&place.queue, plain, &log).handle_with(run_script, |h| h.queue(&place.queue));
    let error = start(double, &place.broker).ended().await.unwrap_err();
    assert!(matches!(error, Error::DuplicateHandler { job: "test.script", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_original_bytes_and_properties_are_in_the_dead_letter() {
    let place = Place::shared("properties").await;
    let log = Log::default();
    let running = start(worker(&place.queue, plain, &log), &place.broker);
    place.declared().await;
    let raw = place.raw().await;
    let mut headers = FieldTable::default();
    headers.insert("tenant".into(), AMQPValue::LongString("acme".into()));
    let properties = lapin::BasicProperties::default()
        .with_type("test.script".into())
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into())
        .with_app_id("shop".into())
        .with_priority(3)
        .with_timestamp(1_700_000_000)
        .with_content_type("application/json".into())
        .with_headers(headers);
    raw.publish("", &place.queue, properties, b"not \xff json").await.unwrap();
    let dead = format!("{}.dead", place.queue);
    eventually("it is a dead letter", LONG, async || raw.depth(&dead).await.unwrap() == Some(1)).await;
    running.stop().await.unwrap();
    let letter = raw.take(&dead).await.unwrap().unwrap().delivery;
    assert_eq!(letter.data, b"not \xff json");
    let kept = &letter.properties;
    assert_eq!(kept.message_id().as_ref().map(|id| id.as_str()), Some("m-1"));
    assert_eq!(kept.correlation_id().as_ref().map(|id| id.as_str()), Some("c-1"));
    assert_eq!(kept.reply_to().as_ref().map(|name| name.as_str()), Some("answers"));
    assert_eq!(kept.app_id().as_ref().map(|name| name.as_str()), Some("shop"));
    assert_eq!((*kept.priority(), *kept.timestamp(), *kept.delivery_mode()), (Some(3), Some(1_700_000_000), Some(2)));
    let headers = kept.headers().clone().unwrap();
    let text = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(
        (text("tenant"), text("leveret-error-kind"), text("leveret-queue")),
        ("acme".into(), "decode".into(), place.queue.clone())
    );
    assert!(text("leveret-error").contains("test.script"), "{}", text("leveret-error"));
}
