//! A cancellation applies to one life of a job, which may have others.

use super::{
    Act, Arc, Duration, LONG, Ordering, Place, QueueReader, Seen, Source, Task, dead_letters, listening, reported,
    sleep, testing, timeout, worker,
};

on_both_brokers!(
    a_job_that_was_cancelled_when_it_was_dead_runs_once_it_is_replayed,
    a_cancelled_job_that_cannot_run_ends_as_cancelled,
);

async fn a_job_that_was_cancelled_when_it_was_dead_runs_once_it_is_replayed(place: Place) {
    let mut events = listening(&place).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let id = publisher.publish(&Task { act: Act::Refuse }).track().await.unwrap();
    reported(&mut events, id.as_str(), &["received", "started", "dead"]).await;
    publisher.cancel(id.as_str()).await.unwrap();
    let mut feed = QueueReader::new(&place.broker, Source::DeadLetters("tasks".into()), 10).unwrap();
    let batch = timeout(LONG, feed.next(10)).await.unwrap();
    // Later by the clock, which counts in milliseconds.
    sleep(Duration::from_millis(2)).await;
    let payload = serde_json::to_vec(&Task { act: Act::FailOnce }).unwrap();
    publisher.replay(batch.messages()[0].message(), "tasks").payload(payload).await.unwrap();
    feed.ack(batch);
    let steps = ["received", "started", "retrying", "received", "started", "succeeded"];
    reported(&mut events, id.as_str(), &steps).await;
    // And it can be cancelled again.
    let again = publisher.publish(&Task { act: Act::Refuse }).track().await.unwrap();
    reported(&mut events, again.as_str(), &["received", "started", "dead"]).await;
    let batch = timeout(LONG, feed.next(10)).await.unwrap();
    let payload = serde_json::to_vec(&Task { act: Act::UntilCancelled }).unwrap();
    publisher.replay(batch.messages()[0].message(), "tasks").payload(payload).await.unwrap();
    feed.ack(batch);
    sleep(Duration::from_millis(2)).await;
    publisher.cancel(again.as_str()).await.unwrap();
    let mut is_over = false;
    while !is_over {
        let batch = timeout(LONG, events.next(50)).await.unwrap();
        let mut steps = batch.messages().iter().filter_map(leveret::reader::ReadMessage::status_update);
        is_over = steps.any(|event| event.id == again.as_str() && event.transition.name() == "cancelled");
        events.ack(batch);
    }
    running.stop().await.unwrap();
}

async fn a_cancelled_job_that_cannot_run_ends_as_cancelled(place: Place) {
    let mut events = listening(&place).await;
    testing::start(worker(&Arc::default()), &place.broker).await.unwrap().stop().await.unwrap();
    let publisher = place.broker.publisher();
    let brief = publisher.publish(&Task { act: Act::Succeed }).track().expires(Duration::from_millis(1));
    let expired = brief.await.unwrap();
    sleep(Duration::from_millis(5)).await;
    let unknown = publisher.publish_raw("no.worker.knows", "tasks", "{}").track().await.unwrap();
    for id in [&expired, &unknown] {
        publisher.cancel(id.as_str()).await.unwrap();
    }
    let running = testing::start(worker(&Arc::default()), &place.another_process()).await.unwrap();
    let mut ended = std::collections::BTreeMap::new();
    while ended.len() < 2 {
        let batch = timeout(LONG, events.next(50)).await.unwrap();
        let steps = batch.messages().iter().filter_map(leveret::reader::ReadMessage::status_update);
        ended.extend(steps.map(|event| (event.id, event.transition.name())));
        events.ack(batch);
    }
    assert_eq!((ended[&expired], ended[&unknown]), ("cancelled", "cancelled"));
    assert!(dead_letters(&place.broker, "tasks").await.unwrap().is_empty());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_job_with_the_id_of_a_cancelled_one_runs_later() {
    let place = Place::memory();
    let mut events = listening(&place).await;
    let seen = Arc::<Seen>::default();
    let running = testing::start(worker(&seen), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let nightly = || publisher.publish(&Task { act: Act::Succeed }).id("nightly").track();
    publisher.cancel("nightly").await.unwrap();
    nightly().await.unwrap();
    reported(&mut events, "nightly", &["received", "cancelled"]).await;
    sleep(Duration::from_secs(61)).await;
    nightly().await.unwrap();
    reported(&mut events, "nightly", &["received", "started", "succeeded"]).await;
    assert_eq!(seen.runs.load(Ordering::SeqCst), 1);
    running.stop().await.unwrap();
}
