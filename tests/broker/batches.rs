//! Batches on both brokers, and workers with batches that are killed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use leveret::{
    Batch, Batching, ErrorKind, JobResult, Queue, RetryPolicy, Worker,
    testing::{self, dead_letters},
};
use leveret_harness::eventually;
use leveret_tests::jobs::{Act, Script, publish, script};

use crate::{
    contract::Place,
    on_both_brokers,
    support::{self, LONG},
};

on_both_brokers!(one_bad_job_among_a_thousand_is_the_only_dead_letter);

type Stored = Arc<Mutex<Vec<String>>>;

/// Stores all labels of a batch, or none.
async fn store(batch: Batch<Script, Stored>) -> JobResult {
    let labels = batch.iter().map(|job| job.payload().label.clone()).collect::<Vec<_>>();
    if labels.iter().any(|label| label == "bad") {
        return Err("a constraint is violated".into());
    }
    batch.state().lock().unwrap().extend(labels);
    Ok(())
}

async fn one_bad_job_among_a_thousand_is_the_only_dead_letter(place: Place) {
    let stored = Stored::default();
    let batching = Batching::up_to(100).within(Duration::from_millis(100));
    let retry = RetryPolicy::fixed(Duration::from_millis(200)).max_attempts(5);
    let queue = Queue::new(place.queue.as_str()).concurrency(2).retry(retry);
    let worker = Worker::new(Arc::clone(&stored)).queue(queue);
    let worker = worker.handle_batch_with(batching, store, |h| h.queue(&place.queue));
    let running = testing::start(worker, &place.broker).await.unwrap();
    place.until_declared().await;
    let labels = (0..1_000).map(|n| if n == 500 { "bad".to_owned() } else { format!("good-{n}") });
    let jobs: Vec<_> = labels.map(|label| script(&label, [])).collect();
    let publishes = jobs.iter().map(|job| publish(&place.broker, &place.queue, job).into_future());
    for published in futures_util::future::join_all(publishes).await {
        published.unwrap();
    }
    let good = || stored.lock().unwrap().iter().filter(|label| label.starts_with("good-")).cloned().collect::<Vec<_>>();
    eventually("all others are stored", LONG, async || good().len() >= 999).await;
    let dead = async || dead_letters(&place.broker, &place.queue).await.unwrap();
    eventually("the bad one is a dead letter", LONG, async || !dead().await.is_empty()).await;
    running.stop().await.unwrap();
    let letters = dead().await;
    assert_eq!((letters.len(), letters[0].kind, letters[0].attempt), (1, Some(ErrorKind::Error), 5));
    assert!(letters[0].reason.ends_with("a constraint is violated"), "{}", letters[0].reason);
    let distinct: BTreeSet<_> = good().into_iter().collect();
    assert_eq!((distinct.len(), good().len()), (999, 999), "each once");
}

const BATCHES: [&str; 8] = ["--batch", "50", "--concurrency", "2", "--prefetch", "100", "--max-attempts", "5"];

#[tokio::test]
async fn a_kill_in_the_middle_of_batches_loses_no_job_and_repeats_only_unacknowledged_ones() {
    let place = support::Place::shared("batch-kill").await;
    let doubled = place.doubled_by_a_kill(&BATCHES).await;
    assert!(doubled <= 100, "{doubled} jobs ran twice with 100 unacknowledged");
    assert!(dead_letters(&place.broker, &place.queue).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_that_kills_its_process_is_convicted_alone_and_the_others_of_its_batches_are_done() {
    let place = support::Place::shared("batch-crash").await;
    place.a_killer_is_convicted_alone(&BATCHES, Act::WorkMs(10)).await;
}
