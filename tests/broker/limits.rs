//! Limits and circuits: jobs that must wait, on the in-memory broker with paused time and on RabbitMQ.

use std::{collections::BTreeSet, time::Duration};

use leveret::{CircuitBreaker, CircuitState, Context, JobResult, Queue, Rate, RetryPolicy, Worker};
use leveret_harness::{Node, NodeOptions, Proxy, eventually};
use leveret_tests::jobs::{Act, Log, Run, Script, Scripts, run_script, script, start, worker_with};
use serde::{Deserialize, Serialize};

use crate::{
    contract::Place,
    on_both_brokers,
    support::{self, LONG},
};

on_both_brokers!(
    jobs_over_the_rate_each_come_back_once_at_their_own_slot_and_no_attempt_is_charged,
    workers_that_follow_each_other_together_start_no_more_jobs_than_the_rate,
    a_job_without_a_limit_flows_past_those_that_wait,
    no_more_of_a_key_run_at_once_than_allowed_and_all_run_in_the_end,
    a_job_whose_key_panics_is_retried_and_dead_lettered_as_a_panic,
    while_a_dependency_is_down_jobs_wait_in_their_queue_and_one_probe_at_a_time_finds_it_up,
    jobs_without_the_need_flow_on_while_a_dependency_is_down,
    a_handler_may_ask_for_the_state_and_answer_otherwise,
);

/// Another job on the queue, to which none of the limits apply.
#[derive(Serialize, Deserialize)]
struct Other {
    label: String,
}

impl leveret::Job for Other {
    const NAME: &'static str = "test.other";
    const QUEUE: &'static str = "other";
}

async fn run_other(job: Other, ctx: Context<Log>) -> JobResult {
    run_script(script(&job.label, [Act::Succeed]), ctx).await
}

impl Place {
    async fn publish_other(&self, label: &str) {
        self.broker.publisher().publish(&Other { label: label.to_owned() }).queue(&self.queue).await.unwrap();
    }

    /// Returns how often jobs were deferred, by reason.
    async fn held(&self, job: &str, reason: &str) -> u64 {
        let health = self.broker.serve_health().unwrap();
        let (_, text) = crate::metrics::get(&health.address().to_string(), "/metrics").await;
        let row = format!("leveret_jobs_held_total{{job=\"{job}\",queue=\"{}\",reason=\"{reason}\"}} ", self.queue);
        text.lines().find_map(|line| line.strip_prefix(&row)).map_or(0, |count| count.parse().unwrap())
    }
}

/// A worker of scripts and of others.
fn both(place: &Place, log: &Log, set: impl FnOnce(Scripts) -> Scripts) -> Worker<Log> {
    worker_with(&place.queue, |queue| queue, log, set).handle_with(run_other, |h| h.queue(&place.queue))
}

fn named<'a>(runs: &'a [Run], prefix: &'a str) -> impl Iterator<Item = &'a Run> {
    runs.iter().filter(move |run| run.label.starts_with(prefix))
}

fn done(runs: &[Run], prefix: &str) -> usize {
    named(runs, prefix).filter(|run| run.finished).count()
}

async fn jobs_over_the_rate_each_come_back_once_at_their_own_slot_and_no_attempt_is_charged(place: Place) {
    let log = Log::default();
    let running = start(both(&place, &log, |h| h.rate(Rate::new(1, Duration::from_millis(500)))), &place.broker);
    place.until_declared().await;
    log.until("the probe is done", |runs| done(runs, "probe") == 1).await;
    for n in 0..8 {
        place.publish(&script(&format!("job-{n}"), [Act::Succeed])).await;
    }
    log.until("all have run", |runs| done(runs, "job") == 8).await;
    let held = place.held("test.script", "rate").await;
    running.stop().await.unwrap();
    let runs = log.runs();
    let times: Vec<_> = named(&runs, "job").map(|run| run.at).collect();
    assert!(named(&runs, "job").all(|run| run.attempt == 1));
    assert_eq!(times.len(), 8, "each runs once");
    // The probe comes in the worker's first second, in which none starts.
    assert!(held <= 9, "{held} waits of 8 jobs and the probe");
    let all = times[7] - times[0];
    assert!(all >= Duration::from_millis(3_300) && all < Duration::from_millis(5_000), "{all:?} for seven intervals");
    for (n, at) in times.iter().enumerate() {
        let slot = Duration::from_millis(500) * n as u32;
        assert!(
            *at - times[0] + Duration::from_millis(150) >= slot,
            "job {n} is before its slot: {:?}",
            *at - times[0]
        );
    }
}

async fn workers_that_follow_each_other_together_start_no_more_jobs_than_the_rate(place: Place) {
    const JOBS: usize = 60;
    let log = Log::default();
    let limited = || both(&place, &log, |h| h.rate(Rate::per_second(10)));
    let mut running = start(limited(), &place.broker);
    place.until_declared().await;
    log.until("the probe is done", |runs| done(runs, "probe") == 1).await;
    for n in 0..JOBS {
        place.publish(&script(&format!("job-{n}"), [Act::Succeed])).await;
    }
    for part in 1..=3 {
        log.until("a part has run", |runs| done(runs, "job") >= part * JOBS / 6).await;
        running.stop().await.unwrap();
        running = start(limited(), &place.broker);
    }
    log.until("all have run", |runs| done(runs, "job") == JOBS).await;
    running.stop().await.unwrap();
    let runs = log.runs();
    let times: Vec<_> = named(&runs, "job").map(|run| run.at).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    // A machine that is slow can only make it longer.
    assert!(*last - *first >= Duration::from_millis(5_800), "{:?} for {JOBS} jobs at 10 a second", *last - *first);
}

async fn a_job_without_a_limit_flows_past_those_that_wait(place: Place) {
    let log = Log::default();
    let slow = Rate::new(1, Duration::from_secs(3_600));
    let running = start(both(&place, &log, |h| h.rate(slow)), &place.broker);
    place.until_declared().await;
    log.until("the probe is done", |runs| done(runs, "probe") == 1).await;
    for n in 0..40 {
        place.publish(&script(&format!("waits-{n}"), [Act::Succeed])).await;
    }
    place.publish_other("flows").await;
    log.until("it has run", |runs| done(runs, "flows") == 1).await;
    assert_eq!(done(&log.runs(), "waits"), 0);
    running.stop().await.unwrap();
}

async fn no_more_of_a_key_run_at_once_than_allowed_and_all_run_in_the_end(place: Place) {
    let log = Log::default();
    let customer = |job: &Script| job.label.chars().next();
    let running = start(both(&place, &log, |h| h.concurrency_per(customer, 2)), &place.broker);
    place.until_declared().await;
    for n in 0..10 {
        place.publish(&script(&format!("a-{n}"), [Act::WorkMs(300)])).await;
    }
    place.publish(&script("b-0", [Act::WorkMs(300)])).await;
    let most = async {
        let mut most = 0;
        while done(&log.runs(), "a-") < 10 {
            let runs = log.runs();
            most = most.max(named(&runs, "a-").filter(|run| !run.finished).count());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        most
    };
    let most = tokio::time::timeout(Duration::from_secs(60), most).await.unwrap();
    running.stop().await.unwrap();
    let runs = log.runs();
    assert_eq!((most, named(&runs, "a-").count()), (2, 10));
    assert!(runs.iter().all(|run| run.attempt == 1));
    let first = named(&runs, "a-").next().unwrap().at;
    assert!(named(&runs, "b-0").next().unwrap().at - first < Duration::from_millis(700), "another key waits for none");
}

async fn a_job_whose_key_panics_is_retried_and_dead_lettered_as_a_panic(place: Place) {
    let log = Log::default();
    let customer = |job: &Script| if job.label == "x" { panic!("whose is it?") } else { job.label.clone() };
    let queue = Queue::new(&place.queue).retry(RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(2));
    let worker = Worker::new(log.clone())
        .queue(queue)
        .handle_with(run_script, |h| h.queue(&place.queue).concurrency_per(customer, 2));
    let running = start(worker, &place.broker);
    place.until_declared().await;
    place.publish(&script("x", [Act::Succeed])).await;
    place.publish(&script("17", [Act::Succeed])).await;
    log.until("the other has run", |runs| done(runs, "17") == 1).await;
    let letters = async || leveret::testing::dead_letters(&place.broker, &place.queue).await.unwrap();
    eventually("it is dead-lettered", Duration::from_secs(60), async || letters().await.len() == 1).await;
    let letter = &letters().await[0];
    assert_eq!((letter.attempt, letter.kind), (2, Some(leveret::ErrorKind::Panic)), "{letter:?}");
    assert!(letter.reason.contains("limit panicked: whose is it?"), "{letter:?}");
    running.stop().await.unwrap();
}

fn quick() -> CircuitBreaker {
    CircuitBreaker::new("smtp").failures(3).open_for(Duration::from_millis(1_500))
}

/// Fails until the test opens the gate.
async fn mail(job: Script, ctx: Context<Log>) -> JobResult {
    let act = if ctx.state().gate.is_cancelled() { Act::Succeed } else { Act::Fail("connection refused".into()) };
    run_script(script(&job.label, [act]), ctx).await
}

async fn while_a_dependency_is_down_jobs_wait_in_their_queue_and_one_probe_at_a_time_finds_it_up(place: Place) {
    const BACKLOG: usize = 300;
    let log = Log::default();
    let queue = Queue::new(&place.queue).concurrency(4).retry(RetryPolicy::fixed(Duration::from_millis(200)));
    let worker = Worker::new(log.clone()).circuit_breaker(quick()).queue(queue);
    let running = start(worker.handle_with(mail, |h| h.queue(&place.queue).circuit("smtp")), &place.broker);
    place.until_declared().await;
    for n in 0..BACKLOG {
        place.publish(&script(&format!("job-{n}"), [])).await;
    }
    log.until("the circuit is open", |runs| runs.iter().filter(|run| run.finished).count() >= 3).await;
    // In memory all else happens at one moment.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = log.runs().len();
    assert!(before <= 3 + 4, "{before} runs before the circuit opened");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let probes = log.runs().len() - before;
    assert!((3..=4).contains(&probes), "{probes} probes in 6 s, one each 1.5 s");
    log.gate.cancel();
    log.until("all have run", |runs| runs.iter().map(|run| &run.label).collect::<BTreeSet<_>>().len() > BACKLOG).await;
    let held = place.held("test.script", "circuit").await;
    running.stop().await.unwrap();
    assert!(held <= 30, "{held} waits: the backlog of {BACKLOG} did not go round the ladder");
}

async fn jobs_without_the_need_flow_on_while_a_dependency_is_down(place: Place) {
    let log = Log::default();
    let running = start(both(&place, &log, |h| h.circuit("smtp")).circuit_breaker(quick()), &place.broker);
    place.until_declared().await;
    for n in 0..3 {
        place.publish(&script(&format!("down-{n}"), [Act::Fail("connection refused".into())])).await;
    }
    log.until("the circuit is open", |runs| done(runs, "down") >= 3).await;
    let before = done(&log.runs(), "down");
    for n in 0..20 {
        place.publish(&script(&format!("needs-{n}"), [Act::Succeed])).await;
        place.publish_other(&format!("other-{n}")).await;
    }
    log.until("the others have run", |runs| done(runs, "other") == 20).await;
    let seen = done(&log.runs(), "needs") + done(&log.runs(), "down") - before;
    assert!(seen <= 2, "{seen} reached the handler while the circuit was open");
    running.stop().await.unwrap();
}

async fn a_handler_may_ask_for_the_state_and_answer_otherwise(place: Place) {
    async fn fallback(job: Other, ctx: Context<Log>) -> JobResult {
        let label = match ctx.circuit("smtp") {
            CircuitState::Closed | CircuitState::HalfOpen => job.label,
            CircuitState::Open => "otherwise".to_owned(),
        };
        run_script(script(&label, [Act::Succeed]), ctx).await
    }
    let log = Log::default();
    let worker = worker_with(&place.queue, |queue| queue, &log, |h| h.circuit("smtp"))
        .circuit_breaker(quick())
        .handle_with(fallback, |h| h.queue(&place.queue));
    let running = start(worker, &place.broker);
    place.until_declared().await;
    place.publish_other("as-usual").await;
    log.until("it has run as usual", |runs| done(runs, "as-usual") == 1).await;
    for n in 0..3 {
        place.publish(&script(&format!("down-{n}"), [Act::Fail("connection refused".into())])).await;
    }
    log.until("the circuit is open", |runs| done(runs, "down") >= 3).await;
    place.publish_other("not-this").await;
    log.until("it has answered without the service", |runs| done(runs, "otherwise") == 1).await;
    running.stop().await.unwrap();
}

/// Runs until the test opens the gate, and fails.
async fn stuck_at_first(job: Script, ctx: Context<Log>) -> JobResult {
    if job.label != "first" || ctx.attempt() > 1 {
        return run_script(job, ctx).await;
    }
    run_script(script("first", [Act::Gate]), ctx).await?;
    Err("connection refused".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_on_their_way_while_the_broker_does_not_hear_of_the_pause_are_not_lost() {
    const LATE: usize = 9;
    // A private node keeps the load of other tests away from the frozen connection.
    let node = Node::start(NodeOptions::default()).await;
    let place = support::Place::at(&node.url(), "paused");
    let proxy = Proxy::start(&place.url).await;
    let log = Log::default();
    let queue =
        // One more than `first`, those that are late, and the probe of `declared`, whose ack may be frozen too.
        Queue::new(&place.queue).prefetch(12).concurrency(5).retry(RetryPolicy::fixed(Duration::from_millis(200)));
    let down = CircuitBreaker::new("smtp").failures(1).open_for(Duration::from_millis(200));
    let worker = Worker::new(log.clone())
        .circuit_breaker(down)
        .queue(queue)
        .handle_with(stuck_at_first, |h| h.queue(&place.queue).circuit("smtp"));
    let running = start(worker, &support::broker(proxy.url()));
    place.declared().await;
    place.publish(&script("first", [])).await;
    log.until("the first runs", |runs| runs.iter().any(|run| run.label == "first")).await;
    proxy.freeze();
    for n in 0..LATE {
        place.publish(&script(&format!("late-{n}"), [Act::Succeed])).await;
    }
    let raw = place.raw().await;
    eventually("they are on their way", LONG, async || raw.depth(&place.queue).await.unwrap() == Some(0)).await;
    log.gate.cancel();
    // The worker stops waiting for the broker's answer after two seconds, and consumes again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.thaw();
    place.publish(&script("after", [Act::Succeed])).await;
    log.until("all have run", |runs| done(runs, "late-") == LATE && done(runs, "after") == 1).await;
    running.stop().await.unwrap();
}
