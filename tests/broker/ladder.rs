//! The delay ladder on RabbitMQ.

use std::time::{Duration, SystemTime};

use lapin::types::{AMQPValue, ShortString};
use leveret::{Broker, Queue, RetryPolicy, testing::dead_letters};
use leveret_harness::{Node, NodeOptions, eventually, shared_node, unique};
use leveret_tests::jobs::{Act, Log, publish, script, start, worker};
use tokio::time::Instant;

use crate::support::{LONG, Place};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delays_of_up_to_ninety_seconds_are_never_early_and_less_than_a_second_late() {
    let place = Place::shared("long-delays").await;
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.declared().await;
    let started = Instant::now();
    for ms in [90_000_u64, 60_000, 3_000, 2_000, 200] {
        let job = script(&ms.to_string(), [Act::Succeed]);
        publish(&place.broker, &place.queue, &job).delay(Duration::from_millis(ms)).await.unwrap();
    }
    log.until("the short ones have run", |runs| runs.len() == 4).await;
    let job = |label: &'static str| move |runs: &[leveret_tests::jobs::Run]| runs.iter().any(|run| run.label == label);
    log.until("a minute is over", job("60000")).await;
    log.until("ninety seconds are over", job("90000")).await;
    running.stop().await.unwrap();
    let runs: Vec<_> = log.runs().into_iter().filter(|run| run.label != "probe").collect();
    let order: Vec<_> = runs.iter().map(|run| run.label.as_str()).collect();
    assert_eq!(order, ["200", "2000", "3000", "60000", "90000"]);
    for run in &runs {
        let (due, passed) = (Duration::from_millis(run.label.parse().unwrap()), run.at - started);
        assert!(passed >= due && passed < due + Duration::from_secs(1), "{passed:?} for {due:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_is_exact_though_the_broker_is_restarted_and_no_worker_lives_meanwhile() {
    let node = Node::start(NodeOptions::default()).await;
    let place = Place::at(&node.url(), "restart");
    place.declare().await;
    let (log, began, asked) = (Log::default(), Instant::now(), Duration::from_secs(40));
    let job = |label: &str| script(label, [Act::Succeed]);
    publish(&place.broker, &place.queue, &job("delay")).delay(asked).await.unwrap();
    let at = SystemTime::now() + asked;
    publish(&place.broker, &place.queue, &job("at")).at(at).await.unwrap();
    // This one is due while there is no broker.
    publish(&place.broker, &place.queue, &job("meanwhile")).delay(Duration::from_secs(2)).await.unwrap();
    // A queue that is younger than a flush does not survive its node.
    node.sync().await.unwrap();
    node.kill9().await;
    node.restart().await;
    assert!(began.elapsed() < asked - Duration::from_secs(10), "the node is back only after {:?}", began.elapsed());
    tokio::time::sleep_until(began + asked - Duration::from_secs(5)).await;
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    log.until("all have run", |runs| ["delay", "at", "meanwhile"].iter().all(|label| has_run(runs, label))).await;
    running.stop().await.unwrap();
    for label in ["delay", "at"] {
        let passed = log.of(label)[0].at - began;
        assert!(passed >= asked && passed < asked + Duration::from_secs(1), "{label}: {passed:?}");
    }
}

fn has_run(runs: &[leveret_tests::jobs::Run], label: &str) -> bool {
    runs.iter().any(|run| run.label == label)
}

#[tokio::test(start_paused = true)]
async fn a_delay_of_years_ends_at_its_second() {
    let place = Place { broker: Broker::memory(), queue: "years".into(), url: String::new() };
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.declared().await;
    let (began, day) = (Instant::now(), Duration::from_secs(24 * 3600));
    for days in [200, 311, 1_000, 3_649] {
        publish(&place.broker, &place.queue, &script(&days.to_string(), [])).delay(day * days).await.unwrap();
    }
    for days in ["200", "311", "1000", "3649"] {
        let due = began + day * days.parse::<u32>().unwrap();
        tokio::time::sleep_until(due + Duration::from_secs(2)).await;
        let runs = log.of(days);
        assert_eq!(runs.len(), 1, "{days} days");
        assert!(runs[0].at >= due && runs[0].at < due + Duration::from_secs(1), "{days} days: {:?}", runs[0].at - due);
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_jobs_of_a_deleted_queue_block_no_others_and_are_kept() {
    let vhost = shared_node().await.vhost().await;
    let gone = Place::at(&vhost.url(), "gone");
    let other = Place { queue: unique("other"), ..Place::at(&vhost.url(), "other") };
    gone.declare().await;
    let log = Log::default();
    let running = start(worker(&other.queue, |queue| queue, &log), &other.broker);
    other.declared().await;
    for _ in 0..33 {
        let job = script("stray", [Act::Succeed]);
        publish(&gone.broker, &gone.queue, &job).delay(Duration::from_millis(1_600)).await.unwrap();
    }
    let raw = gone.raw().await;
    raw.delete_queue(&gone.queue).await.unwrap();
    for n in 0..5 {
        let job = script(&format!("other-{n}"), [Act::Succeed]);
        publish(&other.broker, &other.queue, &job).delay(Duration::from_millis(1_600)).await.unwrap();
    }
    log.until("the others have run", |runs| runs.iter().filter(|run| run.label.starts_with("other")).count() == 5)
        .await;
    running.stop().await.unwrap();
    eventually("the strays are kept", LONG, async || raw.depth("leveret.v1.unrouted").await.unwrap() == Some(33)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_level_of_the_ladder_is_repaired_by_the_next_publisher() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "repaired");
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.declared().await;
    // A suspicion within a second of an ensure counts as outdated.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    place.raw().await.delete_queue("leveret.v1.delay.04").await.unwrap();
    publish(&place.broker, &place.queue, &script("delayed", [Act::Succeed]))
        .delay(Duration::from_millis(1_600))
        .await
        .unwrap();
    log.until("it has run", |runs| runs.iter().any(|run| run.label == "delayed" && run.finished)).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_keeps_its_headers_and_no_x_death_through_three_retries() {
    let place = Place::shared("headers").await;
    let log = Log::default();
    let policy = RetryPolicy::fixed(Duration::from_millis(300)).max_attempts(4);
    let running = start(worker(&place.queue, |queue| queue.retry(policy), &log), &place.broker);
    place.declared().await;
    let job = script("often", [Act::Fail("again".into())]);
    let publish = publish(&place.broker, &place.queue, &job).header("tenant", "acme").header("shard", 7).id("often");
    publish.await.unwrap();
    let letters = async || dead_letters(&place.broker, &place.queue).await.unwrap_or_default();
    eventually("it is dead-lettered", LONG, async || letters().await.len() == 1).await;
    running.stop().await.unwrap();
    assert_eq!(log.of("often").iter().map(|run| run.attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let message = place.raw().await.take(&format!("{}.dead", place.queue)).await.unwrap().unwrap();
    let headers = message.delivery.properties.headers().clone().unwrap();
    let names: Vec<_> = headers.inner().keys().map(ShortString::as_str).collect();
    assert!(names.iter().all(|name| !name.contains("death")), "{names:?}");
    assert_eq!(headers.inner().get("tenant"), Some(&AMQPValue::LongString("acme".into())));
    assert_eq!(headers.inner().get("shard"), Some(&AMQPValue::LongLongInt(7)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_text_of_two_hundred_kilobytes_breaks_nothing() {
    let place = Place::shared("long-error").await;
    let log = Log::default();
    let policy = RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(2);
    let running = start(worker(&place.queue, |queue| queue.retry(policy), &log), &place.broker);
    place.declared().await;
    let reason = "long ".repeat(40_000);
    place.publish(&script("wordy", [Act::Fail(reason.clone())])).await;
    let letters = async || dead_letters(&place.broker, &place.queue).await.unwrap_or_default();
    eventually("it is dead-lettered", LONG, async || letters().await.len() == 1).await;
    running.stop().await.unwrap();
    let letter = &letters().await[0];
    assert_eq!((letter.attempt, letter.reason.len()), (2, 4096));
    assert!(reason.starts_with(&letter.reason));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jittered_policy_takes_one_hop_and_keeps_its_mean() {
    const JOBS: usize = 300;
    let place = Place::shared("jitter").await;
    let log = Log::default();
    // Attempt 1 draws from 0 to 12.8 s: a mean of 6.4 s, and time to stop the worker before most come back.
    let set = |queue: Queue| queue.retry(RetryPolicy::exponential().base(Duration::from_millis(12_800)));
    let running = start(worker(&place.queue, set, &log), &place.broker);
    place.declared().await;
    for n in 0..JOBS {
        place.publish(&script(&format!("job-{n}"), [Act::Fail("down".into())])).await;
    }
    let first = |runs: &[leveret_tests::jobs::Run]| {
        let ended = runs.iter().filter(|run| run.finished && run.attempt == 1 && run.label != "probe");
        ended.count() == JOBS
    };
    log.until("all have failed once", first).await;
    running.stop().await.unwrap();
    let seen = log.runs().iter().filter(|run| run.attempt == 1 && run.label != "probe").count();
    assert_eq!(seen, JOBS);
    let raw = place.raw().await;
    let early = log.runs().iter().filter(|run| run.attempt > 1).count();
    let (mut waits, mut taken) = (Vec::new(), 0);
    let all = async || {
        while let Some(message) = raw.take(&place.queue).await.unwrap() {
            let headers = message.delivery.properties.headers().clone().unwrap();
            taken += 1;
            waits.extend(wait_of(&headers).filter(|_| number(&headers, "leveret-attempt") == Some(2)));
        }
        taken >= JOBS - early
    };
    eventually("all have come back", LONG, all).await;
    let mean = waits.iter().sum::<f64>() / waits.len() as f64;
    // Those that ran a second time before the stop had short waits and are not in the sample.
    assert!(early < JOBS / 4 && (4.8..=9.0).contains(&mean), "mean {mean} s of {} jobs, {early} early", waits.len());
}

/// The seconds that a message waited, if it has been in one level of the ladder only.
fn wait_of(headers: &lapin::types::FieldTable) -> Option<f64> {
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else { return Some(0.0) };
    assert_eq!(deaths.as_slice().len(), 1, "one hop: {deaths:?}");
    let AMQPValue::FieldTable(death) = &deaths.as_slice()[0] else { panic!("{deaths:?}") };
    let Some(AMQPValue::LongString(queue)) = death.inner().get("queue") else { panic!("{death:?}") };
    let level: u32 = queue.to_string().rsplit('.').next()?.parse().ok()?;
    Some(0.1 * f64::from(1 << level))
}

fn number(headers: &lapin::types::FieldTable, name: &str) -> Option<i64> {
    match headers.inner().get(name)? {
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}
