//! From the broker into the store.

use std::time::Duration;

use leveret::{Broker, catalogue::Catalogue, testing};
use leveret_harness::eventually;
use leveret_serve::dead::ingest;
use leveret_store::{DeadSource, JobState};

use crate::stage::{Charge, Stage, no_steps};

#[tokio::test]
async fn a_dead_letter_is_in_the_store_and_no_longer_in_the_broker() {
    let stage = Stage::new().await;
    let letters = stage.bury([5]).await;
    let letter = &letters[0];
    assert_eq!((letter.queue.as_str(), letter.job.as_str(), letter.kind.as_str()), ("money", "charge", "permanent"));
    assert_eq!((letter.error.as_str(), letter.job_id.as_deref()), ("account 5 is closed", Some("c5")));
    assert_eq!((letter.source, letter.hop, letter.attempt), (DeadSource::Dead, 1, 1));
    assert!(letter.failed_at > 0 && letter.failed_at <= letter.taken_at);
    assert!(testing::dead_letters(&stage.broker, "money").await.unwrap().is_empty());
}

#[tokio::test]
async fn while_the_store_is_unreachable_dead_letters_wait_in_the_broker() {
    let stage = Stage::new().await;
    let (ingest, store) = (stage.ingest(), stage.store.clone());
    store.close().await;
    stage.kill([1, 2, 3]).await;
    let taken = async || testing::dead_letters(&stage.broker, "money").await.unwrap().is_empty();
    eventually("all are unacknowledged by the ingest task", Duration::from_secs(20), taken).await;
    ingest.stop().await;
    let waiting = testing::dead_letters(&stage.broker, "money").await.unwrap();
    assert_eq!(waiting.len(), 3, "delivered, not acked, and requeued");
}

#[tokio::test]
async fn the_end_of_a_tracked_job_is_known_even_if_its_worker_could_not_publish_it() {
    let stage = Stage::new().await;
    // No tracker runs here, so the status comes from the dead letter.
    stage.broker.publisher().publish(&Charge { cents: 7 }).id("c7").label("seven").track().await.unwrap();
    stage.bury([]).await;
    let job = stage.store.job("c7").await.unwrap().unwrap();
    assert_eq!((job.state, job.hop, job.attempt), (JobState::Dead, 0, 1), "in the place of the worker's own event");
    assert_eq!((job.error.as_deref(), job.label.as_deref()), (Some("account 7 is closed"), Some("seven")));
}

#[tokio::test]
async fn a_delayed_job_whose_queue_is_deleted_is_ingested_with_the_queue_of_its_workers() {
    let stage = Stage::new().await;
    let ingest = stage.ingest();
    let delayed = stage.broker.publisher().publish_raw("charge", "closed-down", r#"{"cents": 1}"#);
    delayed.delay(Duration::from_millis(100)).await.unwrap();
    eventually("it is ingested", Duration::from_secs(10), async || !stage.letters().await.is_empty()).await;
    let letter = &stage.letters().await[0];
    assert_eq!(
        (letter.source, letter.kind.as_str(), letter.queue.as_str()),
        (DeadSource::Unrouted, "unrouted", "money")
    );
    ingest.stop().await;
}

#[tokio::test]
async fn queues_that_no_worker_announced_can_be_named() {
    let stage = Stage::new().await;
    let (no_jobs, stop) = (Catalogue::follow(&Broker::memory()), tokio_util::sync::CancellationToken::new());
    stage.kill([1]).await;
    let queues = vec!["money".to_owned()];
    let run = ingest::run((stage.broker.clone(), stage.store.clone(), no_jobs), queues, no_steps(), stop.clone());
    let task = tokio::spawn(run);
    stage.until_dead(1).await;
    stop.cancel();
    task.await.unwrap().unwrap();
}
