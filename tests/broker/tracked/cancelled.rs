//! Cancelled tracked jobs.

use leveret_harness::RawClient;

use super::{
    Act, Arc, Duration, LONG, Node, NodeOptions, Ordering, Place, Queue, QueueReader, RetryPolicy, Seen, Source, Task,
    Worker, act, broker, dead_letters, eventually, listening, reported, testing, timeout, worker,
};

on_both_brokers!(
    a_job_that_waits_does_not_run_once_it_is_cancelled,
    a_job_is_cancelled_though_its_worker_starts_later,
    a_running_job_is_notified_of_its_cancellation,
    a_job_that_is_done_before_it_notices_that_it_is_cancelled_is_done,
    a_cancelled_job_is_not_retried,
);

async fn a_job_that_waits_does_not_run_once_it_is_cancelled(place: Place) {
    let mut feed = listening(&place).await;
    let seen = Arc::<Seen>::default();
    let running = testing::start(worker(&seen), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let delay = Duration::from_secs(2);
    let id = publisher.publish(&Task { act: Act::Succeed }).track().delay(delay).await.unwrap();
    publisher.cancel(id.as_str()).await.unwrap();
    reported(&mut feed, id.as_str(), &["received", "cancelled"]).await;
    assert_eq!(seen.runs.load(Ordering::SeqCst), 0);
    running.stop().await.unwrap();
}

async fn a_job_is_cancelled_though_its_worker_starts_later(place: Place) {
    let mut feed = listening(&place).await;
    let seen = Arc::<Seen>::default();
    testing::start(worker(&seen), &place.broker).await.unwrap().stop().await.unwrap();
    let publisher = place.broker.publisher();
    let cancelled = publisher.publish(&Task { act: Act::Succeed }).track().await.unwrap();
    let wanted = publisher.publish(&Task { act: Act::Succeed }).track().await.unwrap();
    publisher.cancel(cancelled.as_str()).await.unwrap();
    let running = testing::start(worker(&seen), &place.another_process()).await.unwrap();
    let mut ended = std::collections::BTreeMap::new();
    while ended.len() < 2 {
        let batch = timeout(LONG, feed.next(50)).await.unwrap();
        let events = batch.messages().iter().filter_map(leveret::reader::ReadMessage::status_update);
        ended.extend(
            events.filter(|event| event.transition.is_terminal()).map(|event| (event.id, event.transition.name())),
        );
        feed.ack(batch);
    }
    assert_eq!((ended[&cancelled], ended[&wanted]), ("cancelled", "succeeded"));
    assert_eq!(seen.runs.load(Ordering::SeqCst), 1);
    running.stop().await.unwrap();
}

async fn a_running_job_is_notified_of_its_cancellation(place: Place) {
    let mut feed = listening(&place).await;
    let seen = Arc::<Seen>::default();
    let running = testing::start(worker(&seen), &place.another_process()).await.unwrap();
    let publisher = place.broker.publisher();
    let id = publisher.publish(&Task { act: Act::UntilCancelled }).track().await.unwrap();
    eventually("the job runs", LONG, async || seen.runs.load(Ordering::SeqCst) == 1).await;
    publisher.cancel(id.as_str()).await.unwrap();
    reported(&mut feed, id.as_str(), &["received", "started", "cancelled"]).await;
    assert!(dead_letters(&place.broker, "tasks").await.unwrap().is_empty());
    running.stop().await.unwrap();
}

async fn a_job_that_is_done_before_it_notices_that_it_is_cancelled_is_done(place: Place) {
    let mut feed = listening(&place).await;
    let seen = Arc::<Seen>::default();
    let running = testing::start(worker(&seen), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let id = publisher.publish(&Task { act: Act::IgnoreCancel }).track().await.unwrap();
    eventually("the job runs", LONG, async || seen.runs.load(Ordering::SeqCst) == 1).await;
    publisher.cancel(id.as_str()).await.unwrap();
    seen.may_end.store(true, Ordering::SeqCst);
    reported(&mut feed, id.as_str(), &["received", "started", "succeeded"]).await;
    running.stop().await.unwrap();
}

async fn a_cancelled_job_is_not_retried(place: Place) {
    let mut feed = listening(&place).await;
    let seen = Arc::<Seen>::default();
    let retry = RetryPolicy::fixed(Duration::from_secs(3)).max_attempts(3);
    let slow = Worker::new(Arc::clone(&seen)).queue(Queue::new("tasks").retry(retry)).handle(act);
    let running = testing::start(slow, &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let id = publisher.publish(&Task { act: Act::FailOnce }).track().await.unwrap();
    eventually("the job has failed", LONG, async || seen.runs.load(Ordering::SeqCst) == 1).await;
    publisher.cancel(id.as_str()).await.unwrap();
    reported(&mut feed, id.as_str(), &["received", "started", "retrying", "received", "cancelled"]).await;
    assert_eq!(seen.runs.load(Ordering::SeqCst), 1);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_does_not_run_though_everything_is_restarted() {
    let node = Node::start(NodeOptions::default()).await;
    let (first, seen) = (broker(&node.url()), Arc::<Seen>::default());
    let place = Place { broker: first, url: Some(node.url()), _vhost: None };
    let feed = listening(&place).await;
    testing::start(worker(&seen), &place.broker).await.unwrap().stop().await.unwrap();
    let publisher = place.broker.publisher();
    let waiting = publisher.publish(&Task { act: Act::Succeed }).track().await.unwrap();
    publisher.cancel(waiting.as_str()).await.unwrap();
    feed.close().await;
    place.broker.close().await;
    // RabbitMQ 3.10 loses a queue's log that was begun less than a second before.
    node.sync().await.unwrap();
    node.kill9().await;
    node.restart().await;
    let place = Place { broker: broker(&node.url()), url: Some(node.url()), _vhost: None };
    let mut feed = QueueReader::new(&place.broker, Source::StatusUpdates, 100).unwrap();
    let running = testing::start(worker(&seen), &place.another_process()).await.unwrap();
    reported(&mut feed, waiting.as_str(), &["received", "cancelled"]).await;
    place.broker.publisher().publish(&Task { act: Act::Succeed }).track().await.unwrap();
    eventually("another job runs", LONG, async || seen.runs.load(Ordering::SeqCst) == 1).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_hears_of_cancelled_jobs_also_in_a_stream_that_was_made_anew() {
    let place = Place::rabbitmq().await;
    let mut feed = listening(&place).await;
    let seen = Arc::<Seen>::default();
    let running = testing::start(worker(&seen), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let run_and_cancel = async |feed: &mut QueueReader, runs: u32| {
        let id = publisher.publish(&Task { act: Act::UntilCancelled }).track().await.unwrap();
        eventually("the job runs", LONG, async || seen.runs.load(Ordering::SeqCst) == runs).await;
        publisher.cancel(id.as_str()).await.unwrap();
        reported(feed, id.as_str(), &["received", "started", "cancelled"]).await;
    };
    for runs in 1..=3 {
        run_and_cancel(&mut feed, runs).await;
    }
    let raw = RawClient::connect(place.url.as_deref().unwrap()).await.unwrap();
    raw.delete_queue("leveret.v1.cancelled").await.unwrap();
    run_and_cancel(&mut feed, 4).await;
    running.stop().await.unwrap();
}
