//! Lanes: priorities on any version of RabbitMQ.

use std::time::Duration;

use leveret::{PublishError, Queue, Worker, testing::dead_letters};
use leveret_harness::eventually;
use leveret_tests::jobs::{Act, Log, Script, publish, script, start, worker};

use crate::{
    contract::Place,
    on_both_brokers,
    support::{LONG, Place as Rabbit},
};

on_both_brokers!(
    jobs_go_into_the_lane_of_their_priority_and_start_in_proportion_to_its_weight,
    retries_and_delays_come_back_to_their_own_lane_and_the_dead_letters_are_shared,
    lanes_of_one_queue_share_its_concurrency,
);

fn laned(queue: &str, set: impl FnOnce(Queue) -> Queue, log: &Log) -> Worker<Log> {
    worker(queue, |queue| set(queue.lanes([6, 3, 1])), log)
}

async fn put(place: &Place, job: &Script, priority: Option<u8>) {
    let publish = publish(&place.broker, &place.queue, job).lanes();
    match priority {
        Some(priority) => publish.priority(priority).await.unwrap(),
        None => publish.await.unwrap(),
    };
}

/// Makes a worker declare the queue and its lanes.
async fn declare(place: &Place) {
    let log = Log::default();
    let running = start(laned(&place.queue, |queue| queue, &log), &place.broker);
    place.until_declared().await;
    log.until("the probe is done", |runs| runs.iter().any(|run| run.finished)).await;
    running.stop().await.unwrap();
}

async fn jobs_go_into_the_lane_of_their_priority_and_start_in_proportion_to_its_weight(place: Place) {
    const EACH: usize = 60;
    declare(&place).await;
    for n in 0..EACH {
        for (label, priority) in [("low", Some(1)), ("normal", None), ("high", Some(9))] {
            put(&place, &script(&format!("{label}-{n}"), [Act::WorkMs(20)]), priority).await;
        }
    }
    let log = Log::default();
    let running = start(laned(&place.queue, |queue| queue.concurrency(2).prefetch(20), &log), &place.broker);
    log.until("all have run", |runs| runs.iter().filter(|run| run.finished).count() == 3 * EACH).await;
    running.stop().await.unwrap();
    let runs = log.runs();
    let of =
        |label: &str, runs: &[leveret_tests::jobs::Run]| runs.iter().filter(|run| run.label.starts_with(label)).count();
    // While all three have jobs.
    let (high, normal, low) = (of("high", &runs[..60]), of("normal", &runs[..60]), of("low", &runs[..60]));
    assert!(
        (30..=42).contains(&high) && (12..=24).contains(&normal) && (3..=12).contains(&low),
        "{high} {normal} {low}"
    );
}

async fn retries_and_delays_come_back_to_their_own_lane_and_the_dead_letters_are_shared(place: Place) {
    let log = Log::default();
    let quick = |queue: Queue| queue.retry(leveret::RetryPolicy::fixed(Duration::from_millis(200)).max_attempts(2));
    let running = start(laned(&place.queue, quick, &log), &place.broker);
    place.until_declared().await;
    // It runs once a consumer is there, and so the lanes, which are declared after the queue.
    log.until("the probe is done", |runs| runs.iter().any(|run| run.finished)).await;
    let low = format!("{}.low", place.queue);
    // Without a priority, only the lane shows it.
    let job = script("lost", [Act::Fail("down".into())]);
    publish(&place.broker, &low, &job).id("lost").await.unwrap();
    let delayed = publish(&place.broker, &place.queue, &script("later", [Act::Succeed])).lanes().priority(9);
    delayed.delay(Duration::from_millis(300)).await.unwrap();
    log.until("both are done", |runs| runs.iter().filter(|run| run.label != "probe").count() == 3).await;
    let mut letters = Vec::new();
    eventually("it is dead-lettered", LONG, async || {
        letters = dead_letters(&place.broker, &place.queue).await.unwrap_or_default();
        letters.len() == 1
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!((letters[0].id.as_deref(), letters[0].attempt), (Some("lost"), 2));
}

async fn lanes_of_one_queue_share_its_concurrency(place: Place) {
    let log = Log::default();
    let running = start(laned(&place.queue, |queue| queue.concurrency(3), &log), &place.broker);
    place.until_declared().await;
    log.until("the probe is done", |runs| runs.iter().all(|run| run.finished) && !runs.is_empty()).await;
    for n in 0..4 {
        for priority in [Some(9), None, Some(1)] {
            put(&place, &script(&format!("gated-{n}"), [Act::Gate]), priority).await;
        }
    }
    log.until("three run", |runs| runs.len() == 4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(log.runs().len(), 4, "no more than three at once");
    log.gate.cancel();
    log.until("all are done", |runs| runs.iter().filter(|run| run.finished).count() == 13).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_retried_waits_in_its_own_lane_on_rabbitmq() {
    let place = Rabbit::shared("own-lane").await;
    let log = Log::default();
    let slow = |queue: Queue| queue.retry(leveret::RetryPolicy::fixed(Duration::from_secs(2)));
    let running = start(laned(&place.queue, slow, &log), &place.broker);
    place.declared().await;
    log.until("the probe is done", |runs| runs.iter().any(|run| run.finished)).await;
    publish(&place.broker, &place.queue, &script("low", [Act::Fail("down".into())])).lanes().priority(0).await.unwrap();
    log.until("it has failed", |runs| runs.iter().any(|run| run.label == "low" && run.finished)).await;
    running.stop().await.unwrap();
    let (raw, low) = (place.raw().await, format!("{}.low", place.queue));
    eventually("it is back in its lane", LONG, async || raw.depth(&low).await.unwrap() == Some(1)).await;
    assert_eq!(raw.depth(&place.queue).await.unwrap(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_type_that_says_so_is_put_by_priority() {
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(transparent)]
    struct Mail(Script);
    impl leveret::Job for Mail {
        const NAME: &'static str = "test.script";
        const QUEUE: &'static str = "mail";
        const LANES: bool = true;
    }
    let place = Place::in_memory("mail.high");
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.until_declared().await;
    let publisher = place.broker.publisher();
    publisher.publish(&Mail(script("high", [Act::Succeed]))).priority(9).await.unwrap();
    log.until("it has run", |runs| runs.iter().any(|run| run.label == "high")).await;
    for wrong in [publisher.publish(&Mail(script("x", []))), publisher.publish(&Mail(script("x", []))).queue("nowhere")]
    {
        assert!(
            matches!(wrong.await, Err(PublishError::Unroutable { queue }) if queue == "mail" || queue == "nowhere")
        );
    }
    running.stop().await.unwrap();
}
