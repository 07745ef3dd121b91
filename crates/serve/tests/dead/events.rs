//! Dead letters of tracked events: their status has the id `<id>@<subscription>`.

use std::time::Duration;

use leveret::{Context, Event, JobError, JobResult, RetryPolicy, Subscription, Worker, testing};
use leveret_harness::eventually;
use leveret_serve::dead::replay::ReplayOptions;
use leveret_store::JobState;
use serde::{Deserialize, Serialize};

use crate::{
    replay::BY,
    stage::{Stage, all},
};

const SOON: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
struct Placed {
    cents: i64,
}

async fn reserve(event: Placed, _ctx: Context<()>) -> JobResult {
    Err(JobError::permanent(format!("no stock for {}", event.cents)))
}

async fn accept(_: Placed, _ctx: Context<()>) -> JobResult {
    Ok(())
}

fn warehouse() -> Subscription {
    Subscription::new("warehouse").retry(RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(2))
}

/// Emits events to two subscriptions, of which one fails, and ingests their dead letters.
async fn dead_events(stage: &Stage, numbers: std::ops::Range<i64>) {
    let worker = Worker::new(()).subscribe(warehouse(), reserve).subscribe(Subscription::new("mail"), accept);
    let running = testing::start(worker, &stage.broker).await.unwrap();
    for cents in numbers.clone() {
        stage.broker.publisher().emit(&Placed { cents }).id(format!("e{cents}")).track().await.unwrap();
    }
    testing::idle(&stage.broker).await;
    let is_announced = async || stage.catalogue.entries().iter().any(|entry| entry.queue == "warehouse");
    eventually("the subscription is in the catalogue", SOON, is_announced).await;
    running.stop().await.unwrap();
    assert_eq!(testing::dead_letters(&stage.broker, "warehouse").await.unwrap().len(), numbers.clone().count());
    let ingest = stage.ingest();
    stage.until_dead(numbers.count()).await;
    ingest.stop().await;
}

#[tokio::test]
async fn a_dead_event_is_dead_in_its_subscription_and_in_no_other() {
    let stage = Stage::new().await;
    dead_events(&stage, 1..2).await;
    let job = stage.store.job("e1@warehouse").await.unwrap().unwrap();
    assert_eq!((job.state, job.queue.as_str(), job.hop), (JobState::Dead, "warehouse", 0));
    assert!(stage.store.job("e1").await.unwrap().is_none(), "no row of its own");
    assert!(stage.store.job("e1@mail").await.unwrap().is_none(), "nothing is known of the other subscription");
    assert_eq!(stage.letters().await[0].job_id.as_deref(), Some("e1"), "its handlers know it by this id");
}

#[tokio::test]
async fn canaries_of_events_are_judged_by_their_status_in_the_subscription() {
    let stage = Stage::new().await;
    dead_events(&stage, 1..6).await;
    let tracker = stage.track();
    let failing = testing::start(Worker::new(()).subscribe(warehouse(), reserve), &stage.broker).await.unwrap();
    let options = ReplayOptions { canary: Some(2), ..ReplayOptions::default() };
    let summary = stage.dead().replay(&all(), &options, BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, summary.returned), (2, 3), "{summary:?}");
    assert!(summary.outcome.contains("e1@warehouse failed as before"), "{summary:?}");
    failing.stop().await.unwrap();

    let fixed = testing::start(Worker::new(()).subscribe(warehouse(), accept), &stage.broker).await.unwrap();
    let summary = stage.dead().replay(&all(), &options, BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, summary.outcome.as_str()), (3, "done"), "{summary:?}");
    let done =
        async || stage.store.job("e5@warehouse").await.unwrap().is_some_and(|job| job.state == JobState::Succeeded);
    eventually("the last one is done", SOON, done).await;
    assert!(stage.store.job("e5").await.unwrap().is_none(), "no row of its own");
    fixed.stop().await.unwrap();
    tracker.abort();
}

#[tokio::test]
async fn an_event_that_is_replayed_to_a_job_queue_has_its_status_under_its_plain_id() {
    let stage = Stage::new().await;
    dead_events(&stage, 1..2).await;
    stage.fix();
    let tracker = stage.track();
    let options =
        ReplayOptions { canary: Some(1), canary_timeout: 0, queue: Some("money".into()), ..ReplayOptions::default() };
    let summary = stage.dead().replay(&all(), &options, BY, |_| ()).await.unwrap();
    assert_eq!(summary.replayed, 1, "{summary:?}");
    let known = async || stage.store.job("e1").await.unwrap().is_some_and(|job| job.queue == "money");
    eventually("its status is known", SOON, known).await;
    tracker.abort();
}
