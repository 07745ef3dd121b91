//! A slow job delays neither the acks of others nor jobs that another worker could run.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures_util::future::join_all;
use leveret::{Broker, Context, Job, JobResult, Queue, Worker};
use leveret_harness::{TestVhost, eventually, eventually_eq, shared_node};
use leveret_tests::jobs::{Act, Log, Run, Running, publish, script, start, worker};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::support::{LONG, Place, broker};

/// A worker that runs a job which ends when the test opens the gate of its log.
struct Held {
    vhost: TestVhost,
    place: Place,
    log: Log,
    running: Running,
}

impl Held {
    async fn new(name: &str, set: impl FnOnce(Queue) -> Queue) -> Self {
        let vhost = shared_node().await.vhost().await;
        let (place, log) = (Place::at(&vhost.url(), name), Log::default());
        let running = start(worker(&place.queue, set, &log), &place.broker);
        place.declared().await;
        log.until("the probe is done", |runs| !runs.is_empty() && runs.iter().all(|run| run.finished)).await;
        place.publish(&script("held", [Act::Gate])).await;
        log.until("the held job runs", |runs| runs.iter().any(|run| run.label == "held")).await;
        Self { vhost, place, log, running }
    }

    async fn publish(&self, jobs: usize) {
        let Place { broker, queue, .. } = &self.place;
        let publishes = (0..jobs).map(|_| publish(broker, queue, &script("quick", [Act::Succeed])).into_future());
        for published in join_all(publishes).await {
            published.unwrap();
        }
    }

    async fn until_counted(&self, what: &str, ready: usize, handed_out: usize) {
        until_counted(&self.vhost, &self.place, what, (ready, handed_out)).await;
    }

    async fn release(self) {
        assert!(!self.log.of("held")[0].finished);
        self.log.gate.cancel();
        self.until_counted("the held job is acked as well", 0, 0).await;
        self.running.stop().await.unwrap();
        assert_eq!(self.log.of("held").len(), 1);
    }
}

/// Waits until this many jobs are ready and unacknowledged. `rabbitmqctl list_queues` is up to five seconds behind, so
/// the test asks the queue itself.
async fn until_counted(vhost: &TestVhost, place: &Place, what: &str, (ready, handed_out): (usize, usize)) {
    let ask = format!(
        r#"{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{}">>, queue, <<"{}">>)),
           Ask = fun(Count) ->
                     {{ok, {{_, Answer}}, _}} = ra:leader_query(amqqueue:get_pid(Queue), Count),
                     Answer
                 end,
           {{Ask(fun rabbit_fifo:query_messages_ready/1), Ask(fun rabbit_fifo:query_messages_checked_out/1)}}."#,
        vhost.name(),
        place.queue
    );
    let counts = async || vhost.node().eval(&ask).await.unwrap();
    eventually_eq(what, LONG, format!("{{{ready},{handed_out}}}"), counts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_one_job_at_a_time_leaves_all_others_to_one_that_is_idle() {
    let held = Held::new("idle", |queue| queue.concurrency(1)).await;
    held.publish(10).await;
    held.until_counted("none of them waits in the worker", 10, 1).await;

    let other = Log::default();
    let second = start(worker(&held.place.queue, |queue| queue.concurrency(1), &other), &broker(&held.place.url));
    held.publish(10).await;
    other.until("the idle worker has run them all", |runs| runs.iter().filter(|run| run.finished).count() == 20).await;
    assert!(held.log.of("quick").is_empty());
    held.release().await;
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_run_and_are_acked_behind_one_that_does_not_end() {
    let held = Held::new("behind", |queue| queue.concurrency(2).prefetch(4)).await;
    held.publish(2_000).await;
    held.until_counted("all but the held job are acked", 0, 1).await;
    assert_eq!(held.log.of("quick").iter().filter(|run| run.finished).count(), 2_000);
    held.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_leaves_although_another_job_runs_and_nothing_else_happens() {
    // One ack is far below half this prefetch, at which it would be sent in any case.
    let held = Held::new("prompt", |queue| queue.concurrency(2).prefetch(40)).await;
    held.until_counted("the probe is acked", 0, 1).await;
    held.publish(1).await;
    held.log.until("the quick job is done", |runs| runs.iter().any(|run| run.label == "quick" && run.finished)).await;
    held.until_counted("the quick job is acked", 0, 1).await;
    held.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_done_when_their_worker_stops_are_not_redelivered() {
    const JOBS: usize = 2_000;
    let held = Held::new("last", |queue| queue.concurrency(2_000).prefetch(2_000)).await;
    let (broker, queue) = (&held.place.broker, &held.place.queue);
    let publishes = (1..JOBS).map(|_| publish(broker, queue, &script("held", [Act::Gate])).into_future());
    assert!(join_all(publishes).await.iter().all(Result::is_ok));
    let all_run = |runs: &[Run]| runs.iter().filter(|run| run.label == "held").count() == JOBS;
    held.log.until("all run", all_run).await;
    held.log.gate.cancel();
    held.running.stop().await.unwrap();
    until_counted(&held.vhost, &held.place, "all are acked", (0, 0)).await;
}

#[derive(Serialize, Deserialize)]
struct Tick;

impl Job for Tick {
    const NAME: &'static str = "test.tick";
    const QUEUE: &'static str = "ticks";
}

async fn tick(_: Tick, ctx: Context<Arc<AtomicUsize>>) -> JobResult {
    ctx.state().fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Acks are sent whenever a consumer yields, so this bounds the delay of an ack. In memory all jobs are ready at once.
#[tokio::test]
async fn a_consumer_that_always_has_a_next_job_yields_every_few_jobs() {
    const JOBS: usize = 5_000;
    let (broker, ticks) = (Broker::memory(), Arc::new(AtomicUsize::new(0)));
    let worker = Worker::new(Arc::clone(&ticks)).queue(Queue::new(Tick::QUEUE).concurrency(2).prefetch(2_000));
    let worker = worker.handle(tick);
    let own = broker.clone();
    let running = tokio::spawn(async move { worker.run(&own, std::future::pending()).await });
    eventually("the queue is there", LONG, async || broker.publisher().publish(&Tick).await.is_ok()).await;
    for _ in 1..JOBS {
        broker.publisher().publish(&Tick).await.unwrap();
    }
    // A task that is always ready runs each time that the consumer yields.
    let (mut before, mut most) = (ticks.load(Ordering::Relaxed), 0);
    let watch = poll_fn(move |task| {
        let now = ticks.load(Ordering::Relaxed);
        (before, most) = (now, most.max(now - before));
        task.waker().wake_by_ref();
        if now < JOBS { Poll::Pending } else { Poll::Ready(most) }
    });
    let most = timeout(LONG, tokio::spawn(watch)).await.expect("all jobs run").unwrap();
    running.abort();
    assert!(most <= 130, "{most} jobs at one go");
}
