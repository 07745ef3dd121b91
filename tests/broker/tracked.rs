//! Status updates of tracked jobs, and cancelled jobs: on both brokers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use leveret::{
    Broker, Config, Context, Job, JobError, JobResult, Queue, RetryPolicy, TopologyMode, Worker,
    catalogue::Catalogue,
    reader::{QueueReader, Source, declare_status_queue},
    status_update::{StatusUpdate, Transition},
    testing::{self, dead_letters},
};
use leveret_harness::{Node, NodeOptions, Permissions, TestVhost, eventually, shared_node};
use leveret_tests::jobs::{self, publish, script};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::support::{LONG, RunFile, broker, labels};

/// A broker that no other test uses.
struct Place {
    broker: Broker,
    /// The address of another handle on the same broker, like that of another process; `None` for a broker in memory.
    url: Option<String>,
    _vhost: Option<TestVhost>,
}

impl Place {
    fn memory() -> Self {
        // Of a namespace of its own, so that no name is taken for granted.
        let config = Config { namespace: "tracked.v2".into(), ..Config::default() };
        Self { broker: Broker::memory_with(config), url: None, _vhost: None }
    }

    async fn rabbitmq() -> Self {
        let vhost = shared_node().await.vhost().await;
        Self { broker: broker(&vhost.url()), url: Some(vhost.url()), _vhost: Some(vhost) }
    }

    fn another_process(&self) -> Broker {
        self.url.as_deref().map_or_else(|| self.broker.clone(), broker)
    }
}

macro_rules! on_both_brokers {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(super::Place::memory()).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Place::rabbitmq().await).await;
            })*
        }
    };
}

mod awaited;
mod cancelled;
mod lives;
mod results;
mod rights;

on_both_brokers!(
    the_status_updates_of_a_tracked_job_are_published_with_its_result,
    retries_and_the_end_of_a_failing_job_are_reported,
    nothing_is_reported_of_other_jobs,
    a_result_that_is_too_large_is_reported_by_its_size,
    progress_is_reported_once_a_second_and_the_latest_counts,
    a_job_that_was_done_before_leaves_the_queue_as_a_duplicate,
    a_dead_letter_is_replayed_under_its_id_and_from_its_first_attempt,
    what_a_feed_took_and_did_not_ack_comes_again,
    a_worker_announces_its_jobs_once,
);

#[derive(Clone, Serialize, Deserialize)]
struct Task {
    act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Act {
    Succeed,
    FailOnce,
    Refuse,
    Grow,
    Progress,
    UntilCancelled,
    IgnoreCancel,
    Known,
}

impl Job for Task {
    const NAME: &'static str = "task";
    const QUEUE: &'static str = "tasks";

    fn schema() -> Option<Value> {
        Some(json!({"type": "object", "required": ["act"]}))
    }
}

/// The observations of a worker's handlers.
#[derive(Default)]
struct Seen {
    runs: AtomicU32,
    may_end: AtomicBool,
}

async fn act(job: Task, ctx: Context<Arc<Seen>>) -> JobResult<Value> {
    ctx.state().runs.fetch_add(1, Ordering::SeqCst);
    match job.act {
        Act::Succeed => Ok(json!({"pages": 3})),
        Act::FailOnce if ctx.attempt() == 1 => Err("out of paper".into()),
        Act::FailOnce => Ok(Value::Null),
        Act::Refuse => Err(JobError::permanent("no such printer")),
        Act::Grow => Ok(Value::String("x".repeat(64 * 1024))),
        Act::Progress => {
            for page in 0..4 {
                ctx.progress(f64::from(page) / 4.0, &format!("page {page}"));
            }
            sleep(Duration::from_millis(1_500)).await;
            Ok(Value::Null)
        }
        Act::Known => Err(JobError::duplicate()),
        Act::UntilCancelled => {
            ctx.cancelled().await;
            assert!(ctx.is_cancelled());
            Err("stopped halfway".into())
        }
        Act::IgnoreCancel => {
            while !ctx.state().may_end.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(10)).await;
            }
            Ok(Value::Null)
        }
    }
}

fn worker(seen: &Arc<Seen>) -> Worker<Arc<Seen>> {
    let retry = RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(3);
    Worker::new(Arc::clone(seen)).queue(Queue::new("tasks").retry(retry)).handle(act)
}

fn feed(place: &Place) -> QueueReader {
    QueueReader::new(&place.broker, Source::StatusUpdates, 100).unwrap()
}

/// Waits until the updates of a job are these steps, and returns them. They arrive out of order, because only the last
/// is waited for.
async fn reported(feed: &mut QueueReader, id: &str, steps: &[&str]) -> Vec<StatusUpdate> {
    let mut events: Vec<StatusUpdate> = Vec::new();
    let all = timeout(LONG, async {
        while names(&events) != steps {
            let batch = feed.next(50).await;
            events.extend(
                batch
                    .messages()
                    .iter()
                    .filter_map(leveret::reader::ReadMessage::status_update)
                    .filter(|event| event.id == id),
            );
            events.sort_by_key(StatusUpdate::position);
            feed.ack(batch);
        }
    });
    assert!(all.await.is_ok(), "reported is {:?}, and should be {steps:?}", names(&events));
    events
}

/// Opens the status queue; earlier updates are lost.
async fn listening(place: &Place) -> QueueReader {
    declare_status_queue(&place.broker).await.unwrap();
    feed(place)
}

fn names(events: &[StatusUpdate]) -> Vec<&'static str> {
    events.iter().map(|event| event.transition.name()).collect()
}

async fn a_job_that_was_done_before_leaves_the_queue_as_a_duplicate(place: Place) {
    let mut feed = listening(&place).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let id = place.broker.publisher().publish(&Task { act: Act::Known }).track().await.unwrap();
    let events = reported(&mut feed, id.as_str(), &["received", "started", "duplicate"]).await;
    assert!(events.last().unwrap().transition.is_terminal());
    let counted = r#"leveret_jobs_finished_total{job="task",outcome="duplicate",queue="tasks"} 1"#;
    eventually("it is counted", LONG, async || place.broker.metrics_text().contains(counted)).await;
    running.stop().await.unwrap();
    assert!(dead_letters(&place.broker, "tasks").await.unwrap().is_empty());
    // A job left in the queue would run again here.
    let seen = Arc::<Seen>::default();
    let running = testing::start(worker(&seen), &place.broker).await.unwrap();
    let last = place.broker.publisher().publish(&Task { act: Act::Succeed }).track().await.unwrap();
    reported(&mut feed, last.as_str(), &["received", "started", "succeeded"]).await;
    running.stop().await.unwrap();
    assert_eq!(seen.runs.load(Ordering::SeqCst), 1);
}

async fn the_status_updates_of_a_tracked_job_are_published_with_its_result(place: Place) {
    let mut feed = listening(&place).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let publish = publisher.publish(&Task { act: Act::Succeed }).track().label("Quarterly").priority(3);
    let id = publish.await.unwrap();
    let events = reported(&mut feed, id.as_str(), &["received", "started", "succeeded"]).await;
    let last = events.last().unwrap();
    assert_eq!(last.transition, Transition::Succeeded { result: Some(json!({"pages": 3})), too_large: None });
    assert_eq!((last.label.as_deref(), last.priority, last.attempt, last.hop), (Some("Quarterly"), Some(3), 1, 0));
    assert_eq!((last.job.as_str(), last.queue.as_str()), ("task", "tasks"));
    assert!(last.enqueued_at.is_some_and(|at| at <= last.at) && last.worker.is_some());
    running.stop().await.unwrap();
}

async fn retries_and_the_end_of_a_failing_job_are_reported(place: Place) {
    let mut feed = listening(&place).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let retried = publisher.publish(&Task { act: Act::FailOnce }).track().await.unwrap();
    let events =
        reported(&mut feed, retried.as_str(), &["received", "started", "retrying", "received", "started", "succeeded"])
            .await;
    assert!(
        matches!(&events[2].transition, Transition::Retrying { kind, error, .. } if kind == "error" && error == "out of paper")
    );
    assert_eq!((events[2].position(), events[3].position(), events[3].attempt), ((0, 3), (1, 1), 2));
    let refused = publisher.publish(&Task { act: Act::Refuse }).track().await.unwrap();
    let events = reported(&mut feed, refused.as_str(), &["received", "started", "dead"]).await;
    let (kind, error) = ("permanent".to_owned(), "no such printer".to_owned());
    assert_eq!(events.last().unwrap().transition, Transition::Dead { kind, error });
    running.stop().await.unwrap();
    let brief = publisher.publish(&Task { act: Act::Succeed }).track().expires(Duration::from_millis(1));
    let expired = brief.await.unwrap();
    sleep(Duration::from_millis(5)).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let events = reported(&mut feed, expired.as_str(), &["dead"]).await;
    assert!(
        matches!(&events.last().unwrap().transition, Transition::Dead { kind, .. } if kind == "expired"),
        "{events:?}"
    );
    running.stop().await.unwrap();
}

async fn nothing_is_reported_of_other_jobs(place: Place) {
    let mut feed = listening(&place).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let untracked = publisher.publish(&Task { act: Act::Succeed }).await.unwrap();
    let tracked = publisher.publish(&Task { act: Act::Succeed }).track().await.unwrap();
    let mut ids = Vec::new();
    while !ids.contains(&tracked) {
        let batch = timeout(LONG, feed.next(50)).await.unwrap();
        ids.extend(
            batch.messages().iter().filter_map(leveret::reader::ReadMessage::status_update).map(|event| event.id),
        );
        feed.ack(batch);
    }
    assert!(!ids.contains(&untracked));
    running.stop().await.unwrap();
}

async fn a_result_that_is_too_large_is_reported_by_its_size(place: Place) {
    let mut feed = listening(&place).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let id = place.broker.publisher().publish(&Task { act: Act::Grow }).track().await.unwrap();
    let events = reported(&mut feed, id.as_str(), &["received", "started", "succeeded"]).await;
    let too_large = Some(64 * 1024 + 2);
    assert_eq!(events.last().unwrap().transition, Transition::Succeeded { result: None, too_large });
    running.stop().await.unwrap();
}

async fn progress_is_reported_once_a_second_and_the_latest_counts(place: Place) {
    let mut feed = listening(&place).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let id = place.broker.publisher().publish(&Task { act: Act::Progress }).track().await.unwrap();
    let steps = ["received", "started", "progress", "progress", "succeeded"];
    let events = reported(&mut feed, id.as_str(), &steps).await;
    let progress: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.transition {
            Transition::Progress { fraction, note } => Some((*fraction, note.clone().unwrap())),
            _ => None,
        })
        .collect();
    assert_eq!(progress, [(0.0, "page 0".to_owned()), (0.75, "page 3".to_owned())]);
    running.stop().await.unwrap();
}

async fn a_dead_letter_is_replayed_under_its_id_and_from_its_first_attempt(place: Place) {
    let mut events = listening(&place).await;
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let id = publisher.publish(&Task { act: Act::Refuse }).header("tenant", "acme").track().await.unwrap();
    reported(&mut events, id.as_str(), &["received", "started", "dead"]).await;
    let mut feed = QueueReader::new(&place.broker, Source::DeadLetters("tasks".into()), 10).unwrap();
    let batch = timeout(LONG, feed.next(10)).await.unwrap();
    let message = batch.messages()[0].message();
    let kept = leveret::reader::RawMessage::from_parts(&message.properties(), message.payload().to_vec()).unwrap();
    assert_eq!((kept.fields(), kept.dead_letter()), (message.fields(), message.dead_letter()));
    assert_eq!((kept.queue(), kept.is_tracked(), kept.hop()), (Some("tasks"), true, 1));
    assert!(kept.fields().contains(&("tenant".to_owned(), "acme".to_owned())));
    let payload = serde_json::to_vec(&Task { act: Act::FailOnce }).unwrap();
    assert_eq!(publisher.replay(&kept, "tasks").payload(payload).await.unwrap(), id);
    feed.ack(batch);
    let again =
        reported(&mut events, id.as_str(), &["received", "started", "retrying", "received", "started", "succeeded"])
            .await;
    assert_eq!((again[0].attempt, again[0].hop), (1, 2));
    feed.close().await;
    running.stop().await.unwrap();
}

async fn what_a_feed_took_and_did_not_ack_comes_again(place: Place) {
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    for _ in 0..3 {
        publisher.publish(&Task { act: Act::Refuse }).await.unwrap();
    }
    let source = || QueueReader::new(&place.broker, Source::DeadLetters("tasks".into()), 10).unwrap();
    let (mut first, mut taken) = (source(), 0);
    while taken < 3 {
        let batch = timeout(LONG, first.next(2)).await.unwrap();
        assert!(batch.messages().len() <= 2 && batch.messages().iter().all(|taken| !taken.redelivered()));
        taken += batch.messages().len();
        if taken == 3 {
            first.ack(batch);
        }
    }
    first.close().await;
    let mut second = source();
    let batch = timeout(LONG, second.next(10)).await.unwrap();
    assert!(!batch.messages().is_empty() && batch.messages().len() < 3);
    assert!(batch.messages().iter().all(leveret::reader::ReadMessage::redelivered));
    second.ack(batch);
    second.close().await;
    running.stop().await.unwrap();
}

async fn a_worker_announces_its_jobs_once(place: Place) {
    for _ in 0..2 {
        let running = testing::start(worker(&Arc::default()), &place.another_process()).await.unwrap();
        let catalogue = Catalogue::follow(&place.broker);
        let entry = timeout(LONG, catalogue.wait_for("task")).await.unwrap();
        assert_eq!((entry.queue.as_str(), entry.max_attempts), ("tasks", 3));
        assert_eq!(entry.schema.as_ref().unwrap()["required"], json!(["act"]));
        running.stop().await.unwrap();
    }
    let late = Catalogue::follow(&place.broker);
    timeout(LONG, late.ready()).await.unwrap();
    assert_eq!(late.entries().len(), 1);
    assert!(late.find("other").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracked_job_stays_on_its_queue_until_its_end_is_published() {
    let node = Node::start(NodeOptions::default()).await;
    let (place, file) = (crate::support::Place::at(&node.url(), "reported"), RunFile::new());
    let worker = place.process(&file, &[]);
    place.declared().await;
    let mut feed = listening(&Place { broker: place.broker.clone(), url: None, _vhost: None }).await;
    let job = script("slow", [jobs::Act::WorkMs(1_500)]);
    let id = publish(&place.broker, &place.queue, &job).track().await.unwrap();
    file.until("the job runs", |lines| lines.iter().any(|line| line.label == "slow")).await;
    // The node is stopped, so the job cannot end before the alarm is set, however long that takes.
    worker.sigstop();
    node.eval("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).").await.unwrap();
    worker.sigcont();
    file.until("the job has run", |lines| labels(lines, "slow").len() == 1).await;
    worker.sigkill();
    let raw = place.raw().await;
    eventually("it is on its queue", LONG, async || raw.depth(&place.queue).await.unwrap() == Some(1)).await;
    node.eval("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).").await.unwrap();
    let _another = place.process(&file, &[]);
    file.until("it has run again", |lines| lines.iter().filter(|line| line.ended && line.label == "slow").count() == 2)
        .await;
    let mut is_reported = false;
    while !is_reported {
        let batch = timeout(LONG, feed.next(50)).await.unwrap();
        let mut events = batch.messages().iter().filter_map(leveret::reader::ReadMessage::status_update);
        is_reported = events.any(|event| event.id == id.as_str() && event.transition.name() == "succeeded");
        feed.ack(batch);
    }
}
