//! The promises of both brokers: each scenario runs on the in-memory broker with paused time, and on RabbitMQ.

use std::time::Duration;

use leveret::{Broker, Config, ErrorKind, PublishError, Queue, RetryPolicy, testing::dead_letters};
use tokio::time::Instant;

use leveret_tests::jobs::{Act, Log, Script, publish, script, start, worker};

/// A broker and a queue name that no other test uses.
pub(crate) struct Place {
    pub(crate) broker: Broker,
    pub(crate) queue: String,
}

/// Makes each of these functions of a `Place` a test in memory and a test on RabbitMQ.
#[macro_export]
macro_rules! on_both_brokers {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name($crate::contract::Place::in_memory(stringify!($name))).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::contract::on_rabbitmq(stringify!($name)).await).await;
            })*
        }
    };
}

on_both_brokers!(
    a_published_job_runs_once_and_is_acked,
    a_thousand_jobs_of_several_publishers_run_once_each,
    a_failing_job_is_retried_and_its_attempts_are_counted,
    retry_after_and_snooze_are_honoured_and_snooze_charges_no_attempt,
    delays_arrive_never_early_and_less_than_a_second_late,
    a_shorter_delay_overtakes_a_longer_one,
    exhausted_and_permanent_jobs_are_dead_letters_with_their_reason,
    an_expired_job_is_a_dead_letter,
    a_payload_that_is_not_the_job_is_a_dead_letter_with_its_bytes,
    a_panic_and_a_timeout_leave_the_others_alone,
    a_queue_that_does_not_exist_is_unroutable,
    a_payload_over_the_limit_is_refused_before_it_is_sent,
    running_jobs_finish_and_no_new_one_starts_after_a_stop,
    a_job_that_overruns_the_drain_is_delivered_to_another_worker,
    concurrency_bounds_what_runs_at_once,
);

/// RabbitMQ does so from 4.3 on (`versions`).
#[tokio::test(start_paused = true)]
async fn in_memory_the_job_of_the_highest_priority_is_next() {
    let place = Place { broker: Broker::memory(), queue: "priorities".into() };
    place.declare().await;
    for (label, priority) in [("none", None), ("low", Some(1)), ("high", Some(9)), ("same as none", Some(4))] {
        let job = script(label, [Act::Succeed]);
        let publish = publish(&place.broker, &place.queue, &job);
        match priority {
            Some(priority) => publish.priority(priority).await.unwrap(),
            None => publish.await.unwrap(),
        };
    }
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue.concurrency(1), &log), &place.broker);
    log.until("all have run", |runs| runs.iter().filter(|run| run.finished && run.label != "probe").count() == 4).await;
    running.stop().await.unwrap();
    let order: Vec<_> = log.runs().into_iter().map(|run| run.label).filter(|label| label != "probe").collect();
    assert_eq!(order, ["high", "none", "same as none", "low"]);
}

pub(crate) async fn on_rabbitmq(name: &str) -> Place {
    let place = crate::support::Place::shared(name).await;
    Place { broker: place.broker, queue: place.queue }
}

impl Place {
    pub(crate) fn in_memory(name: &str) -> Self {
        // Of a namespace of its own, so that no name is taken for granted.
        let namespace = "contract.v2".to_owned();
        let config = Config { namespace, http_addr: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        Self { broker: Broker::memory_with(config), queue: name.to_owned() }
    }

    pub(crate) async fn publish(&self, job: &Script) {
        publish(&self.broker, &self.queue, job).await.unwrap();
    }

    /// Declares the queue: a worker runs once and stops.
    async fn declare(&self) {
        let log = Log::default();
        let running = start(worker(&self.queue, |queue| queue, &log), &self.broker);
        self.until_declared().await;
        running.stop().await.unwrap();
    }

    pub(crate) async fn until_declared(&self) {
        let probe = script("probe", [Act::Succeed]);
        let declared = async {
            while let Err(error) = publish(&self.broker, &self.queue, &probe).await {
                assert!(matches!(error, PublishError::Unroutable { .. } | PublishError::Nacked { .. }), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), declared).await.expect("the worker declares its queue");
    }
}

/// A queue whose retries take no time.
fn quick(queue: Queue) -> Queue {
    queue.retry(RetryPolicy::fixed(Duration::from_millis(200)).max_attempts(3))
}

async fn a_published_job_runs_once_and_is_acked(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.until_declared().await;
    let id = publish(&place.broker, &place.queue, &script("one", [Act::Succeed])).id("job-1").await.unwrap();
    log.until("the job has run", |runs| runs.iter().any(|run| run.label == "one" && run.finished)).await;
    running.stop().await.unwrap();
    let again = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.publish(&script("last", [Act::Succeed])).await;
    log.until("a later job has run", |runs| runs.iter().any(|run| run.label == "last")).await;
    again.stop().await.unwrap();
    let runs = log.of("one");
    assert_eq!((runs.len(), runs[0].job_id.as_str(), runs[0].attempt), (1, id.as_str(), 1));
}

async fn a_thousand_jobs_of_several_publishers_run_once_each(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue.concurrency(50), &log), &place.broker);
    place.until_declared().await;
    let publishing = (0..4).map(|publisher| {
        let (broker, queue) = (place.broker.clone(), place.queue.clone());
        tokio::spawn(async move {
            let jobs: Vec<_> = (0..250).map(|n| script(&format!("{publisher}-{n}"), [Act::Succeed])).collect();
            let publishes = jobs.iter().map(|job| IntoFuture::into_future(publish(&broker, &queue, job)));
            for published in futures_util::future::join_all(publishes).await {
                published.unwrap();
            }
        })
    });
    for published in publishing.collect::<Vec<_>>() {
        published.await.unwrap();
    }
    log.until("all have run", |runs| runs.iter().filter(|run| run.label != "probe" && run.finished).count() >= 1000)
        .await;
    running.stop().await.unwrap();
    let mut labels: Vec<_> = log.runs().into_iter().map(|run| run.label).filter(|label| label != "probe").collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), 1000);
    assert_eq!(log.runs().iter().filter(|run| run.label != "probe").count(), 1000);
}

async fn a_failing_job_is_retried_and_its_attempts_are_counted(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, quick, &log), &place.broker);
    place.until_declared().await;
    place.publish(&script("flaky", [Act::Fail("down".into()), Act::Fail("down".into()), Act::Succeed])).await;
    log.until("the third attempt has run", |runs| runs.iter().any(|run| run.attempt == 3 && run.finished)).await;
    running.stop().await.unwrap();
    let runs = log.of("flaky");
    assert_eq!(runs.iter().map(|run| run.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(runs.iter().all(|run| run.job_id == runs[0].job_id), "all attempts are of one job");
    for pair in runs.windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(200), "the policy's delay has passed: {runs:#?}");
    }
}

async fn retry_after_and_snooze_are_honoured_and_snooze_charges_no_attempt(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, quick, &log), &place.broker);
    place.until_declared().await;
    place
        .publish(&script("later", [Act::SnoozeMs(600), Act::RetryAfterMs(700), Act::SnoozeMs(300), Act::Succeed]))
        .await;
    log.until("the last run is over", |runs| runs.iter().filter(|run| run.label == "later").count() == 4).await;
    running.stop().await.unwrap();
    let runs = log.of("later");
    assert_eq!(runs.iter().map(|run| run.attempt).collect::<Vec<_>>(), [1, 1, 2, 2]);
    for (pair, ms) in runs.windows(2).zip([600, 700, 300]) {
        let passed = pair[1].at - pair[0].at;
        assert!(
            passed >= Duration::from_millis(ms) && passed < Duration::from_millis(ms + 1_000),
            "{passed:?} for {ms} ms"
        );
    }
}

async fn delays_arrive_never_early_and_less_than_a_second_late(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.until_declared().await;
    let started = Instant::now();
    for ms in [200_u64, 3_000, 12_800] {
        let job = script(&ms.to_string(), [Act::Succeed]);
        publish(&place.broker, &place.queue, &job).delay(Duration::from_millis(ms)).await.unwrap();
    }
    let at = std::time::SystemTime::now() + Duration::from_secs(2);
    publish(&place.broker, &place.queue, &script("1000", [Act::Succeed])).at(at).await.unwrap();
    log.until("all have run", |runs| runs.iter().filter(|run| run.label != "probe" && run.finished).count() == 4).await;
    running.stop().await.unwrap();
    for run in log.runs().into_iter().filter(|run| run.label != "probe") {
        let (due, passed) = (Duration::from_millis(run.label.parse().unwrap()), run.at - started);
        let slack = if run.label == "1000" { Duration::from_secs(2) } else { Duration::from_secs(1) };
        assert!(passed >= due && passed < due + slack, "{passed:?} for {due:?}");
    }
}

async fn a_shorter_delay_overtakes_a_longer_one(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.until_declared().await;
    for ms in [6_000_u64, 200] {
        let job = script(&ms.to_string(), [Act::Succeed]);
        publish(&place.broker, &place.queue, &job).delay(Duration::from_millis(ms)).await.unwrap();
    }
    log.until("both have run", |runs| runs.iter().filter(|run| run.label != "probe").count() == 2).await;
    running.stop().await.unwrap();
    let labels: Vec<_> = log.runs().into_iter().map(|run| run.label).filter(|label| label != "probe").collect();
    assert_eq!(labels, ["200", "6000"]);
}

async fn exhausted_and_permanent_jobs_are_dead_letters_with_their_reason(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, quick, &log), &place.broker);
    place.until_declared().await;
    publish(&place.broker, &place.queue, &script("tired", [Act::Fail("still down".into())])).id("tired").await.unwrap();
    publish(&place.broker, &place.queue, &script("wrong", [Act::GiveUp("no such mailbox".into())]))
        .id("wrong")
        .await
        .unwrap();
    let letters = until_dead(&place, 2).await;
    running.stop().await.unwrap();
    let of = |id: &str| letters.iter().find(|letter| letter.id.as_deref() == Some(id)).unwrap();
    let tired = of("tired");
    assert_eq!((tired.kind, tired.reason.as_str(), tired.attempt), (Some(ErrorKind::Error), "still down", 3));
    let wrong = of("wrong");
    assert_eq!((wrong.kind, wrong.reason.as_str(), wrong.attempt), (Some(ErrorKind::Permanent), "no such mailbox", 1));
    assert_eq!(wrong.payload, serde_json::to_vec(&script("wrong", [Act::GiveUp("no such mailbox".into())])).unwrap());
    assert_eq!(log.of("tired").len(), 3);
}

async fn an_expired_job_is_a_dead_letter(place: Place) {
    place.declare().await;
    let job = script("late", [Act::Succeed]);
    publish(&place.broker, &place.queue, &job).expires(Duration::from_millis(300)).id("late").await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    let letters = until_dead(&place, 1).await;
    running.stop().await.unwrap();
    assert_eq!((letters[0].id.as_deref(), letters[0].kind), (Some("late"), Some(ErrorKind::Expired)));
    assert_eq!(log.of("late").len(), 0);
}

async fn a_payload_that_is_not_the_job_is_a_dead_letter_with_its_bytes(place: Place) {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Other {
        lable: String,
    }
    impl leveret::Job for Other {
        const NAME: &'static str = "test.script";
        const QUEUE: &'static str = "other";
    }
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Unknown;
    impl leveret::Job for Unknown {
        const NAME: &'static str = "test.unknown";
        const QUEUE: &'static str = "other";
    }
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.until_declared().await;
    let publisher = place.broker.publisher();
    publisher.publish(&Other { lable: "x".into() }).queue(&place.queue).id("decode").await.unwrap();
    publisher.publish(&Unknown).queue(&place.queue).id("unknown").await.unwrap();
    let letters = until_dead(&place, 2).await;
    running.stop().await.unwrap();
    let of = |id: &str| letters.iter().find(|letter| letter.id.as_deref() == Some(id)).unwrap();
    let decode = of("decode");
    assert_eq!((decode.kind, decode.payload.as_slice()), (Some(ErrorKind::Decode), br#"{"lable":"x"}"#.as_slice()));
    assert!(decode.reason.contains("missing field `label`"), "{}", decode.reason);
    let unknown = of("unknown");
    assert_eq!(unknown.kind, Some(ErrorKind::UnknownJob));
    assert!(unknown.reason.contains("test.unknown") && unknown.reason.contains("test.script"), "{}", unknown.reason);
}

async fn a_panic_and_a_timeout_leave_the_others_alone(place: Place) {
    let log = Log::default();
    let set = |queue: Queue| queue.retry(RetryPolicy::none()).timeout(Duration::from_millis(500)).concurrency(4);
    let running = start(worker(&place.queue, set, &log), &place.broker);
    place.until_declared().await;
    for (id, act) in [("panic", Act::Panic), ("slow", Act::WorkMs(60_000)), ("block", Act::BlockMs(200))] {
        publish(&place.broker, &place.queue, &script(id, [act])).id(id).await.unwrap();
    }
    for n in 0..20 {
        place.publish(&script(&format!("good-{n}"), [Act::Succeed])).await;
    }
    let good = |runs: &[leveret_tests::jobs::Run]| {
        runs.iter().filter(|run| run.label.starts_with("good") && run.finished).count()
    };
    log.until("the good ones are done", |runs| good(runs) == 20).await;
    let letters = until_dead(&place, 2).await;
    running.stop().await.unwrap();
    let of = |id: &str| letters.iter().find(|letter| letter.id.as_deref() == Some(id)).unwrap();
    assert_eq!(of("panic").kind, Some(ErrorKind::Panic));
    assert!(of("panic").reason.contains("a script's panic"));
    assert_eq!(of("slow").kind, Some(ErrorKind::Timeout));
    assert!(log.of("block")[0].finished);
}

async fn a_queue_that_does_not_exist_is_unroutable(place: Place) {
    let error = publish(&place.broker, &place.queue, &script("lost", [Act::Succeed])).await.unwrap_err();
    let PublishError::Unroutable { queue } = &error else { panic!("{error}") };
    assert_eq!(*queue, place.queue);
}

async fn a_payload_over_the_limit_is_refused_before_it_is_sent(place: Place) {
    let huge = script(&"x".repeat(1024 * 1024), [Act::Succeed]);
    let error = publish(&place.broker, &place.queue, &huge).await.unwrap_err();
    assert!(matches!(error, PublishError::TooLarge { part: "payload", limit: 1_048_576, .. }), "{error}");
}

async fn running_jobs_finish_and_no_new_one_starts_after_a_stop(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue.concurrency(1).prefetch(10), &log), &place.broker);
    place.until_declared().await;
    log.until("the probe is done", |runs| runs.iter().all(|run| run.finished) && !runs.is_empty()).await;
    place.publish(&script("running", [Act::Gate])).await;
    place.publish(&script("waiting", [Act::Succeed])).await;
    log.until("the first job runs", |runs| runs.iter().any(|run| run.label == "running")).await;
    let gate = log.gate.clone();
    let stopping = tokio::spawn(running.stop());
    // The second job reaches another worker while the first still runs here.
    let other = Log::default();
    let second = start(worker(&place.queue, |queue| queue, &other), &place.broker);
    other.until("the waiting job has moved on", |runs| runs.iter().any(|run| run.label == "waiting")).await;
    gate.cancel();
    stopping.await.unwrap().unwrap();
    second.stop().await.unwrap();
    assert!(log.of("running")[0].finished && log.of("waiting").is_empty());
    assert!(other.of("running").is_empty(), "what finished during the drain does not run again");
}

async fn a_job_that_overruns_the_drain_is_delivered_to_another_worker(place: Place) {
    let config = Config { drain_timeout: Duration::from_millis(300), ..place.broker.config().clone() };
    let impatient = match place.queue.contains('-') {
        true => Broker::amqp(config).unwrap(),
        false => return overrun(&place, Broker::memory_with(config)).await,
    };
    overrun(&place, impatient).await;
}

async fn overrun(place: &Place, broker: Broker) {
    let place = Place { broker, queue: place.queue.clone() };
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    place.until_declared().await;
    place.publish(&script("endless", [Act::WorkMs(3_600_000), Act::Succeed])).await;
    log.until("the job runs", |runs| runs.iter().any(|run| run.label == "endless")).await;
    running.stop().await.unwrap();
    let again = start(worker(&place.queue, |queue| queue, &log), &place.broker);
    log.until("another worker has done it", |runs| runs.iter().any(|run| run.label == "endless" && run.finished)).await;
    again.stop().await.unwrap();
    assert_eq!(log.of("endless").iter().map(|run| run.attempt).collect::<Vec<_>>(), [1, 1]);
}

async fn concurrency_bounds_what_runs_at_once(place: Place) {
    let log = Log::default();
    let running = start(worker(&place.queue, |queue| queue.concurrency(3).prefetch(20), &log), &place.broker);
    place.until_declared().await;
    log.until("the probe is done", |runs| runs.iter().all(|run| run.finished) && !runs.is_empty()).await;
    for n in 0..10 {
        place.publish(&script(&format!("gated-{n}"), [Act::Gate])).await;
    }
    log.until("three run", |runs| runs.len() == 4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(log.runs().iter().filter(|run| !run.finished).count(), 3);
    log.gate.cancel();
    log.until("all are done", |runs| runs.iter().filter(|run| run.finished).count() == 11).await;
    running.stop().await.unwrap();
}

async fn until_dead(place: &Place, count: usize) -> Vec<leveret::testing::DeadLetter> {
    for _ in 0..100 {
        let letters = dead_letters(&place.broker, &place.queue).await.unwrap_or_default();
        if letters.len() >= count {
            return letters;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{count} dead letters did not come");
}
