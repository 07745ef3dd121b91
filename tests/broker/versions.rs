//! Differences between RabbitMQ's releases: the behaviour of each, and Leveret's promises on all of them.

use std::time::Duration;

use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicRejectOptions, QueuePurgeOptions},
    types::{AMQPValue, FieldTable},
};
use leveret::{Broker, Config, PublishError, RetryPolicy};
use leveret_harness::{RawClient, eventually, eventually_eq, shared_node};
use leveret_tests::jobs::{Act, Log, publish, script, start, worker};

use crate::support::{LONG, Place};

/// An empty queue of Leveret's on the private node, and that node's version.
async fn place(name: &str) -> (Place, (u32, u32)) {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), name);
    place.declare().await;
    // The worker may have requeued its probe.
    let raw = place.raw().await;
    raw.channel().queue_purge(place.queue.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    (place, vhost.node().version().await.unwrap())
}

/// Returns how often the first message was delivered without an outcome, as the broker counts.
async fn take_count(raw: &RawClient, queue: &str) -> Option<i64> {
    let taken = raw.take(queue).await.unwrap()?;
    let headers = taken.delivery.properties.headers().clone().unwrap_or_default();
    let count = headers.inner().get("x-delivery-count").and_then(AMQPValue::as_long_long_int);
    Some(count.unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_a_stopping_worker_hands_back_are_charged_nothing_from_4_3_on() {
    let (place, version) = place("back").await;
    let log = Log::default();
    place.publish(&script("gated", [Act::Gate])).await;
    for n in 0..3 {
        place.publish(&script(&format!("waiting-{n}"), [Act::Succeed])).await;
    }
    let running = start(worker(&place.queue, |queue| queue.concurrency(1).prefetch(10), &log), &place.broker);
    let raw = place.raw().await;
    let ready = async || raw.depth(&place.queue).await.unwrap();
    log.until("the first job runs", |runs| runs.iter().any(|run| run.label == "gated")).await;
    eventually_eq("the others wait in the worker", LONG, Some(0), ready).await;

    let stopping = tokio::spawn(running.stop());
    eventually_eq("the others are requeued", LONG, Some(3), ready).await;
    log.gate.cancel();
    stopping.await.unwrap().unwrap();

    let charged = i64::from(version < (4, 3));
    for _ in 0..3 {
        assert_eq!(take_count(&raw, &place.queue).await, Some(charged));
    }
}

/// Publishes a job and rejects it with requeue more often than any default of the broker allows.
async fn reject_often(place: &Place) {
    let raw = place.raw().await;
    let durable = BasicProperties::default().with_type("test.script".into()).with_delivery_mode(2);
    let body = serde_json::to_vec(&script("rejected", [Act::Succeed])).unwrap();
    raw.publish("", &place.queue, durable, &body).await.unwrap();
    for _ in 0..25 {
        let taken = raw.channel().basic_get(place.queue.as_str().into(), BasicGetOptions::default()).await.unwrap();
        let Some(taken) = taken else { return };
        taken.delivery.reject(BasicRejectOptions { requeue: true }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_delivery_limit_that_the_broker_has_by_default_from_4_0_on_drops_no_job() {
    let (own, version) = place("own").await;
    let foreign = Place { queue: format!("{}-foreign", own.queue), ..Place::at(&own.url, "") };
    let raw = own.raw().await;
    raw.declare_quorum(&foreign.queue, FieldTable::default()).await.unwrap();
    reject_often(&foreign).await;
    reject_often(&own).await;
    for (queue, kept) in [(&foreign.queue, u32::from(version < (4, 0))), (&own.queue, 1)] {
        eventually_eq(queue, LONG, Some(kept), async || raw.depth(queue).await.unwrap()).await;
    }

    let log = Log::default();
    let running = start(worker(&own.queue, |queue| queue, &log), &own.broker);
    log.until("it runs in the suspect queue", |runs| runs.iter().any(|run| run.label == "rejected")).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_are_none_before_4_0_then_two_lanes_then_strict() {
    const EACH: usize = 8;
    let (place, version) = place("priority").await;
    for (name, priority) in [("low", 0), ("high", 9)] {
        for n in 0..EACH {
            let job = script(&format!("{name}-{n}"), [Act::Succeed]);
            publish(&place.broker, &place.queue, &job).priority(priority).await.unwrap();
        }
    }
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue.concurrency(1).prefetch(1), &log), &place.broker);
    log.until("all are done", |runs| runs.iter().filter(|run| run.finished).count() == 2 * EACH).await;
    running.stop().await.unwrap();
    let is_high: Vec<_> = log.runs().iter().map(|run| run.label.starts_with("high")).collect();
    let high_early = is_high[..EACH].iter().filter(|high| **high).count();
    match version {
        (..4, _) => assert_eq!(high_early, 0, "{is_high:?}"),
        (4, ..3) => assert!((1..EACH).contains(&high_early), "{is_high:?}"),
        _ => assert_eq!(high_early, EACH, "{is_high:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priority_reaches_the_broker_as_it_is_and_none_stays_none_also_on_copies() {
    let (place, _) = place("as-it-is").await;
    let raw = place.raw().await;
    let dead = format!("{}.dead", place.queue);
    for priority in [None, Some(0), Some(4), Some(9), Some(31)] {
        let publish = |act| {
            let publish = publish(&place.broker, &place.queue, &script("x", [act]));
            if let Some(priority) = priority { publish.priority(priority) } else { publish }
        };
        let found = async |queue: &str| {
            let mut taken = None;
            eventually("it is there", LONG, async || {
                taken = raw.take(queue).await.unwrap();
                taken.is_some()
            })
            .await;
            *taken.unwrap().delivery.properties.priority()
        };
        publish(Act::Succeed).await.unwrap();
        assert_eq!(found(&place.queue).await, priority, "published");
        publish(Act::Succeed).delay(Duration::from_millis(300)).await.unwrap();
        assert_eq!(found(&place.queue).await, priority, "delayed");
        let log = Log::default();
        let retry = RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(2);
        let running = start(worker(&place.queue, |queue| queue.retry(retry), &log), &place.broker);
        publish(Act::Fail("down".into())).await.unwrap();
        assert_eq!(found(&dead).await, priority, "retried and dead-lettered");
        running.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_larger_than_the_broker_takes_is_refused_and_its_neighbown_are_not() {
    let (place, version) = place("large").await;
    let config = Config { amqp_url: vec![place.url.clone()], payload_limit: 32 << 20, ..Config::default() };
    let broker = Broker::amqp(config).unwrap();
    let large = script(&"x".repeat(17 << 20), []);
    let small = (0..50).map(|n| publish(&broker, &place.queue, &script(&format!("small-{n}"), [])).into_future());
    let large = publish(&broker, &place.queue, &large).into_future();
    let (large, small) = futures_util::join!(large, futures_util::future::join_all(small));
    match large {
        Ok(_) => assert!(version < (4, 0), "taken by {version:?}"),
        Err(PublishError::Refused { reason, .. }) => {
            assert!(version >= (4, 0) && reason.contains("larger than configured max size"), "{version:?}: {reason}");
        }
        Err(other) => panic!("{other}"),
    }
    let fair = |answer: &Result<_, _>| matches!(answer, Ok(_) | Err(PublishError::Uncertain { .. }));
    assert!(small.iter().all(fair), "{small:?}");
    publish(&broker, &place.queue, &script("after", [])).await.unwrap();
}
