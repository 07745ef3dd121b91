//! Connections that are cut, and the jobs that are unacknowledged then.

use std::{collections::BTreeSet, future::IntoFuture, num::NonZeroU16, time::Duration};

use leveret::{Broker, Config, PublishError};
use leveret_harness::{Permissions, Proxy, eventually, shared_node, unique};
use leveret_tests::jobs::{Act, Log, publish, script, start, worker};

use crate::support::{LONG, Place, RunFile, broker};

/// A worker behind a proxy, and a publisher without one.
struct Cut {
    proxy: Proxy,
    behind: Place,
    direct: Place,
}

impl Cut {
    async fn new(name: &str) -> Self {
        let url = shared_node().await.url();
        let proxy = Proxy::start(&url).await;
        let queue = unique(name);
        let place = |url: &str| Place { broker: broker(url), queue: queue.clone(), url: url.to_owned() };
        Self { behind: place(proxy.url()), direct: place(&url), proxy }
    }

    async fn ready_again(&self, log: &Log) {
        let back = format!("back-{}", log.runs().len());
        self.direct.publish(&script(&back, [Act::Succeed])).await;
        log.until("the worker consumes again", |runs| runs.iter().any(|run| run.label == back)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_while_its_connection_is_cut_is_not_started_again() {
    let cut = Cut::new("adopt").await;
    let log = Log::default();
    let running = start(worker(&cut.behind.queue, |queue| queue.concurrency(10), &log), &cut.behind.broker);
    cut.direct.declared().await;
    for n in 0..5 {
        cut.direct.publish(&script(&format!("gated-{n}"), [Act::Gate])).await;
    }
    log.until("all run", |runs| runs.iter().filter(|run| run.label.starts_with("gated")).count() == 5).await;
    for _ in 0..3 {
        cut.proxy.cut();
        cut.ready_again(&log).await;
    }
    log.gate.cancel();
    log.until("all are done", |runs| runs.iter().all(|run| run.finished)).await;
    running.stop().await.unwrap();
    let gated = log.runs().into_iter().filter(|run| run.label.starts_with("gated")).count();
    assert_eq!(gated, 5, "none was started twice");
    let left = cut.direct.raw().await.depth(&cut.direct.queue).await.unwrap();
    assert_eq!(left, Some(0), "all were acked, on the channel of their last delivery");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ends_while_there_is_no_connection_is_acked_when_it_comes_back() {
    let cut = Cut::new("owed").await;
    let log = Log::default();
    let running = start(worker(&cut.behind.queue, |queue| queue, &log), &cut.behind.broker);
    cut.direct.declared().await;
    cut.direct.publish(&script("gated", [Act::Gate])).await;
    log.until("it runs", |runs| runs.iter().any(|run| run.label == "gated")).await;
    cut.proxy.refuse();
    cut.proxy.cut();
    log.gate.cancel();
    log.until("it is done", |runs| runs.iter().all(|run| run.finished)).await;
    cut.proxy.accept();
    cut.ready_again(&log).await;
    running.stop().await.unwrap();
    assert_eq!(log.of("gated").len(), 1);
    assert_eq!(cut.direct.raw().await.depth(&cut.direct.queue).await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_repeat_an_id_and_are_in_flight_when_the_connection_is_lost_run() {
    let cut = Cut::new("repeated").await;
    let log = Log::default();
    let running = start(worker(&cut.behind.queue, |queue| queue, &log), &cut.behind.broker);
    cut.direct.declared().await;
    let raw = cut.direct.raw().await;
    // Any client may publish like this: each message is the same, down to the last byte.
    let body = serde_json::to_vec(&script("tick", [Act::Succeed])).unwrap();
    let tick = async || {
        let properties =
            lapin::BasicProperties::default().with_type("test.script".into()).with_message_id("tick".into());
        raw.publish("", &cut.direct.queue, properties, &body).await.unwrap();
    };
    let ticks =
        |runs: &[leveret_tests::jobs::Run]| runs.iter().filter(|run| run.finished && run.label == "tick").count();
    tick().await;
    log.until("the first has run", |runs| ticks(runs) == 1).await;
    // No event shows when its ack has arrived.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cut.proxy.freeze();
    tick().await;
    tick().await;
    let handed_out = async || raw.depth(&cut.direct.queue).await.unwrap() == Some(0);
    eventually("the others are on their way", LONG, handed_out).await;
    cut.proxy.cut();
    cut.proxy.thaw();
    log.until("three published, three run", |runs| ticks(runs) == 3).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_at_any_moment_lose_no_job() {
    let cut = Cut::new("cuts").await;
    let log = Log::default();
    let quick = |queue: leveret::Queue| queue.retry(leveret::RetryPolicy::fixed(Duration::from_millis(100)));
    let running = start(worker(&cut.behind.queue, quick, &log), &cut.behind.broker);
    cut.direct.declared().await;
    for n in 0..600_u32 {
        let acts =
            if n.is_multiple_of(5) { vec![Act::Fail("once".into()), Act::WorkMs(3)] } else { vec![Act::WorkMs(3)] };
        cut.direct.publish(&script(&format!("job-{n}"), acts)).await;
        if n % 100 == 50 {
            cut.proxy.cut();
        }
    }
    let done = |runs: &[leveret_tests::jobs::Run], n: u32| {
        let ends = runs.iter().filter(|run| run.finished && run.label == format!("job-{n}")).map(|run| run.attempt);
        ends.max().unwrap_or(0) > u32::from(n.is_multiple_of(5))
    };
    log.until("all are done", |runs| (0..600).all(|n| done(runs, n))).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_loses_its_connection_is_uncertain_and_the_next_one_works() {
    let cut = Cut::new("uncertain").await;
    cut.direct.declare().await;
    publish(&cut.behind.broker, &cut.behind.queue, &script("first", [Act::Succeed])).await.unwrap();
    cut.proxy.freeze();
    let sent =
        tokio::spawn(publish(&cut.behind.broker, &cut.behind.queue, &script("sent", [Act::Succeed])).into_future());
    // No event shows when a frame has gone into a frozen socket.
    tokio::time::sleep(Duration::from_millis(300)).await;
    cut.proxy.cut();
    let error = sent.await.unwrap().unwrap_err();
    assert!(matches!(error, PublishError::Uncertain { .. }), "{error}");
    cut.proxy.thaw();
    publish(&cut.behind.broker, &cut.behind.queue, &script("again", [Act::Succeed])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_is_to_fail_fast_fails_with_the_connection_that_it_waited_for() {
    let cut = Cut::new("fast").await;
    let log = Log::default();
    let running = start(worker(&cut.direct.queue, |queue| queue, &log), &cut.direct.broker);
    cut.direct.declared().await;
    // One publish at a time, so that the second waits for the first.
    let amqp_url = vec![cut.proxy.url().to_owned()];
    let config = Config { amqp_url, publish_window: NonZeroU16::MIN, publish_timeout: 2 * LONG, ..Config::default() };
    let publisher = Broker::amqp(config).unwrap().publisher().fail_fast();
    let publish = || publisher.publish_raw("test.script", cut.direct.queue.clone(), "{}").into_future();
    publish().await.unwrap();
    cut.proxy.freeze();
    let both = tokio::spawn(futures_util::future::join(publish(), publish()));
    cut.proxy.refuse();
    cut.proxy.cut();
    let (_, second) = tokio::time::timeout(LONG, both).await.unwrap().unwrap();
    assert!(matches!(second, Err(PublishError::Unavailable { .. })), "{second:?}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_under_its_consumer_is_declared_and_consumed_again() {
    let place = Place::shared("deleted").await;
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.declared().await;
    let raw = place.raw().await;
    raw.delete_queue(&place.queue).await.unwrap();
    eventually("the queue is back", LONG, async || raw.depth(&place.queue).await.unwrap().is_some()).await;
    place.declared().await;
    place.publish(&script("after", [Act::Succeed])).await;
    log.until("the worker consumes again", |runs| runs.iter().any(|run| run.label == "after")).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_beside_an_unroutable_one_get_their_own_result() {
    let place = Place::shared("mixed").await;
    place.declare().await;
    let nowhere = unique("nowhere");
    let publishes = (0..2_000).map(|n| {
        let queue = if n % 7 == 0 { &nowhere } else { &place.queue };
        publish(&place.broker, queue, &script("x", [Act::Succeed])).id(format!("id-{n}")).into_future()
    });
    let results = futures_util::future::join_all(publishes).await;
    let refused: BTreeSet<_> =
        results.iter().enumerate().filter(|(_, result)| result.is_err()).map(|(n, _)| n).collect();
    assert_eq!(refused, (0..2_000).filter(|n| n % 7 == 0).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_stopped_while_it_starts_leaves_no_consumer_behind() {
    let place = Place::shared("stopped").await;
    place.declare().await;
    for pause in 0..20 {
        let running = start(worker(&place.queue, |queue| queue, &Log::default()), &place.broker);
        tokio::time::sleep(Duration::from_millis(pause * 3)).await;
        running.stop().await.unwrap();
    }
    let log = Log::default();
    for n in 0..20 {
        place.publish(&script(&format!("job-{n}"), [Act::Succeed])).await;
    }
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    let finished = |runs: &[leveret_tests::jobs::Run]| runs.iter().filter(|run| run.label.starts_with("job-")).count();
    log.until("all jobs reach the worker that lives", |runs| finished(runs) == 20).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_the_broker_closes_leaves_its_neighbours_alone() {
    let place = Place::shared("neighbour").await;
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.declared().await;
    // Without an id a redelivery would be another job, and would start again.
    let nameless = lapin::BasicProperties::default().with_type("test.script".into());
    let body = serde_json::to_vec(&script("gated", [Act::Gate])).unwrap();
    place.raw().await.publish("", &place.queue, nameless, &body).await.unwrap();
    log.until("the job runs", |runs| runs.iter().any(|run| run.label == "gated")).await;
    for _ in 0..3 {
        leveret::testing::dead_letters(&place.broker, "there is no such queue").await.unwrap_err();
    }
    place.publish(&script("after", [Act::Succeed])).await;
    log.until("the worker still consumes", |runs| runs.iter().any(|run| run.label == "after")).await;
    log.gate.cancel();
    log.until("all are done", |runs| runs.iter().all(|run| run.finished)).await;
    running.stop().await.unwrap();
    assert_eq!(log.of("gated").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_that_wait_in_a_worker_without_its_connection_are_not_started_there() {
    let cut = Cut::new("stale").await;
    let log = Log::default();
    let one = |queue: leveret::Queue| queue.concurrency(1).prefetch(10);
    let running = start(worker(&cut.behind.queue, one, &log), &cut.behind.broker);
    cut.direct.declared().await;
    log.until("the probe is done", |runs| !runs.is_empty() && runs.iter().all(|run| run.finished)).await;
    cut.direct.publish(&script("gated", [Act::Gate])).await;
    log.until("the first job runs", |runs| runs.iter().any(|run| run.label == "gated")).await;
    for n in 0..5 {
        cut.direct.publish(&script(&format!("waiting-{n}"), [Act::Succeed])).await;
    }
    let raw = cut.direct.raw().await;
    let handed_out = async || raw.depth(&cut.direct.queue).await.unwrap() == Some(0);
    eventually("the others wait in the worker", LONG, handed_out).await;
    cut.proxy.refuse();
    cut.proxy.cut();
    let other = Log::default();
    other.gate.cancel();
    let second = start(worker(&cut.direct.queue, |queue| queue, &other), &cut.direct.broker);
    let waiting =
        |runs: &[leveret_tests::jobs::Run]| runs.iter().filter(|run| run.label.starts_with("waiting")).count();
    other.until("another worker has done them", |runs| waiting(runs) == 5).await;
    log.gate.cancel();
    log.until("the first job is done", |runs| runs.iter().all(|run| run.finished)).await;
    cut.proxy.accept();
    // By the time the first worker gets another job, it would have started the jobs that it held.
    second.stop().await.unwrap();
    cut.ready_again(&log).await;
    running.stop().await.unwrap();
    assert_eq!(waiting(&log.runs()), 0);
}

/// As few channels as a test can use up; more than that are closed.
const FEW_CHANNELS: &str = "?channel_max=8";
const CLOSED_CHANNELS: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_goes_on_however_many_of_its_channels_the_broker_has_closed() {
    let vhost = shared_node().await.vhost().await;
    let owner = Place::at(&vhost.url(), "refused");
    owner.declare().await;
    let user = unique("sender");
    let permissions = Permissions { configure: ".*", write: r"^leveret\.v1\.jobs$", read: "^$" };
    vhost.node().add_user(&user, "secret", vhost.name(), permissions).await.unwrap();
    let config = Config {
        amqp_url: vec![vhost.url_for(&user, "secret") + FEW_CHANNELS],
        topology: leveret::TopologyMode::Verify,
        ..Config::default()
    };
    let sender = Broker::amqp(config).unwrap();
    let job = script("x", [Act::Succeed]);
    for _ in 0..CLOSED_CHANNELS {
        let delayed = publish(&sender, &owner.queue, &job).delay(Duration::from_secs(1));
        let error = delayed.await.expect_err("the user may not write to the delay ladder");
        assert!(matches!(error, PublishError::Refused { .. }), "{error}");
    }
    publish(&sender, &owner.queue, &job).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_goes_on_however_many_of_its_channels_the_broker_has_closed() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&(vhost.url() + FEW_CHANNELS), "closed");
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.declared().await;
    // An ack of a tag that was never delivered, as if the client had sent it: what `rabbit_channel:do` did before 4.3.
    let close_channels = format!(
        r#"[gen_server2:cast(proplists:get_value(channel_pid, Consumer),
                             {{method, {{'basic.ack', 999999999, false}}, none, noflow}})
            || Consumer <- rabbit_amqqueue:consumers_all(<<"{}">>),
               element(4, proplists:get_value(queue_name, Consumer)) =:= <<"{}">>]."#,
        vhost.name(),
        place.queue
    );
    for n in 0..=CLOSED_CHANNELS {
        let label = format!("after-{n}");
        place.publish(&script(&label, [Act::Succeed])).await;
        log.until("jobs flow", |runs| runs.iter().any(|run| run.label == label)).await;
        vhost.node().eval(&close_channels).await.unwrap();
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_get_no_answer_leave_no_thread_behind() {
    let proxy = Proxy::start(&shared_node().await.url()).await;
    let (place, file) = (Place::at(proxy.url(), "silent"), RunFile::new());
    proxy.freeze();
    let process = place.process(&file, &[]);
    eventually("a third attempt is made", LONG, async || proxy.accepted() >= 3).await;
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "lapin-io-loop").count()
    };
    // One for the attempt that is under way.
    eventually("the threads of earlier attempts have ended", LONG, async || threads() <= 1).await;
    proxy.thaw();
    let direct = Place { url: shared_node().await.url(), broker: broker(&shared_node().await.url()), ..place };
    direct.declared().await;
    file.until("it works", |lines| lines.iter().any(|line| line.ended)).await;
}
