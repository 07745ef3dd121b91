//! Workers that are stopped, killed or crash.

use std::time::Duration;

use leveret::testing::dead_letters;
use leveret_harness::eventually;
use leveret_tests::jobs::{Act, publish, script};

use crate::support::{LONG, Place, RunFile, labels};

#[tokio::test]
async fn a_delay_passes_in_the_broker_while_no_worker_lives() {
    let (place, file) = (Place::shared("delay").await, RunFile::new());
    let only = place.process(&file, &["--retry-ms", "3000"]);
    place.declared().await;
    place.publish(&script("delayed", [Act::Fail("down".into()), Act::Succeed])).await;
    file.until("the first attempt has failed", |lines| lines.iter().any(|line| line.ended && line.label == "delayed"))
        .await;
    eventually("its copy is confirmed and the original acked", LONG, async || {
        only.count("attempt failed, retrying") == 1 && place.raw().await.depth(&place.queue).await.unwrap() == Some(0)
    })
    .await;
    // The ack is sent right after the confirm; a pause keeps the kill from hitting either.
    tokio::time::sleep(Duration::from_millis(500)).await;
    only.sigkill();
    only.wait_exit(LONG).await;
    eventually("the delay is over", LONG, async || place.raw().await.depth(&place.queue).await.unwrap() == Some(1))
        .await;
    // A script starts again in a new process: its failure there is retried later than this test looks.
    let _next = place.process(&file, &["--retry-ms", "60000"]);
    file.until("the job has run again", |lines| lines.iter().any(|line| line.ended && line.attempt == 2)).await;
    assert_eq!(file.of("delayed").iter().filter(|line| line.ended).count(), 2);
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_thousand_jobs_loses_none_and_doubles_only_those_in_hand() {
    let doubled = Place::shared("kill").await.doubled_by_a_kill(&["--prefetch", "40", "--concurrency", "20"]).await;
    assert!(doubled <= 40, "{doubled} jobs ran twice with 40 unacknowledged");
}

#[tokio::test]
async fn a_job_that_kills_its_process_is_convicted_and_those_beside_it_are_done() {
    let place = Place::shared("crash").await;
    place.a_killer_is_convicted_alone(&["--concurrency", "8", "--prefetch", "20"], Act::WorkMs(300)).await;
}

#[tokio::test]
async fn sigterm_lets_running_jobs_finish_starts_no_new_one_and_exits_with_zero() {
    let (place, file) = (Place::shared("term").await, RunFile::new());
    let worker = place.process(&file, &["--concurrency", "1", "--drain-timeout", "10s", "--grace-period", "15s"]);
    place.declared().await;
    file.until("the worker works", |lines| !labels(lines, "probe").is_empty()).await;
    place.publish(&script("running", [Act::WorkMs(1_500)])).await;
    place.publish(&script("waiting", [Act::Succeed])).await;
    file.until("the first job runs", |lines| lines.iter().any(|line| line.label == "running")).await;
    worker.sigterm();
    let status = worker.wait_exit(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{:#?}", worker.lines());
    assert_eq!(file.of("running").iter().filter(|line| line.ended).count(), 1);
    assert!(file.of("waiting").is_empty());
    let _next = place.process(&file, &[]);
    file.until("another worker has the waiting job", |lines| !labels(lines, "waiting").is_empty()).await;
    assert_eq!(file.of("running").iter().filter(|line| !line.ended).count(), 1, "it does not run again");
}

#[tokio::test]
async fn a_job_that_overruns_the_drain_deadline_is_redelivered_to_another_worker() {
    let (place, file) = (Place::shared("overrun").await, RunFile::new());
    let worker = place.process(&file, &["--drain-timeout", "1s"]);
    place.declared().await;
    place.publish(&script("endless", [Act::WorkMs(20_000)])).await;
    file.until("the job runs", |lines| lines.iter().any(|line| line.label == "endless")).await;
    worker.sigterm();
    let status = worker.wait_exit(Duration::from_secs(8)).await;
    assert_eq!(status.code(), Some(0), "{:#?}", worker.lines());
    let next = place.process(&file, &[]);
    let starts = |lines: &[crate::support::Line]| {
        let endless = lines.iter().filter(|line| !line.ended && line.label == "endless");
        endless.map(|line| line.process).collect::<Vec<_>>()
    };
    file.until("another worker has it", |lines| starts(lines).len() == 2).await;
    assert_eq!(starts(&file.lines())[1], next.id());
}

/// Starts and stops a worker six times, each time while a job runs, like a deployment that is retried repeatedly.
async fn stopped_six_times(place: &Place, file: &RunFile, arguments: &[&str]) {
    for _ in 0..6 {
        let worker = place.process(file, &[arguments, &["--drain-timeout", "1s"]].concat());
        let runs = |lines: &[crate::support::Line]| lines.iter().any(|line| !line.ended && line.process == worker.id());
        file.until("a job runs", runs).await;
        worker.sigterm();
        let status = worker.wait_exit(LONG).await;
        assert_eq!(status.code(), Some(0), "{:#?}", worker.lines());
        assert_eq!(worker.count("moving the job to the suspect queue"), 0, "{:#?}", worker.lines());
    }
    assert_eq!(dead_letters(&place.broker, &place.queue).await.unwrap(), []);
}

#[tokio::test]
async fn six_orderly_stops_suspect_neither_the_job_that_runs_nor_those_that_wait() {
    let (place, file) = (Place::shared("six-stops").await, RunFile::new());
    place.declare().await;
    place.publish(&script("long", [Act::WorkMs(25_000)])).await;
    place.publish_many((0..30).map(|n| script(&format!("waits-{n}"), [Act::WorkMs(25_000)]))).await;
    stopped_six_times(&place, &file, &["--concurrency", "1", "--prefetch", "20"]).await;
    let last = place.process(&file, &["--concurrency", "40", "--prefetch", "40"]);
    file.until("all have started in one process, none alone", |lines| {
        lines.iter().filter(|line| !line.ended && line.process == last.id()).count() == 31
    })
    .await;
    assert_eq!(last.count("moving the job to the suspect queue"), 0, "{:#?}", last.lines());
}

#[tokio::test]
async fn six_orderly_stops_leave_a_job_of_a_single_active_queue_at_its_place() {
    let (place, file) = (Place::shared("six-in-order").await, RunFile::new());
    let arguments = ["--concurrency", "1", "--prefetch", "1", "--single-active"];
    let first = place.process(&file, &arguments);
    place.declared().await;
    file.until("the worker works", |lines| !labels(lines, "probe").is_empty()).await;
    first.sigterm();
    first.wait_exit(LONG).await;
    place.publish(&script("long", [Act::WorkMs(25_000)])).await;
    place.publish(&script("next", [Act::Succeed])).await;
    stopped_six_times(&place, &file, &arguments).await;
    assert!(file.of("next").is_empty(), "the next job has overtaken it");
}

#[tokio::test]
async fn a_worker_that_stops_keeps_a_single_active_queue_to_itself_until_its_job_is_done() {
    let (place, file) = (Place::shared("rolling").await, RunFile::new());
    let arguments = ["--concurrency", "1", "--prefetch", "1", "--single-active"];
    let first = place.process(&file, &arguments);
    place.declared().await;
    file.until("the worker works", |lines| !labels(lines, "probe").is_empty()).await;
    place.publish(&script("first", [Act::WorkMs(3_000)])).await;
    place.publish(&script("second", [Act::Succeed])).await;
    file.until("the first job runs", |lines| lines.iter().any(|line| line.label == "first")).await;
    let _next = place.process(&file, &arguments);
    first.sigterm();
    assert_eq!(first.wait_exit(LONG).await.code(), Some(0), "{:#?}", first.lines());
    file.until("the second job is done", |lines| !labels(lines, "second").is_empty()).await;
    let order: Vec<_> = file.lines().into_iter().filter(|line| line.label != "probe").collect();
    let order: Vec<_> = order.iter().map(|line| (line.label.as_str(), line.ended)).collect();
    assert_eq!(order, [("first", false), ("first", true), ("second", false), ("second", true)]);
}

#[tokio::test]
async fn a_handler_that_blocks_does_not_outlast_the_grace_period() {
    let (place, file) = (Place::shared("blocks").await, RunFile::new());
    let worker = place.process(&file, &["--drain-timeout", "1s", "--grace-period", "4s"]);
    place.declared().await;
    file.until("the worker works", |lines| !labels(lines, "probe").is_empty()).await;
    // As many as the runtime has threads for its tasks.
    let threads = std::thread::available_parallelism().unwrap().get();
    for n in 0..threads {
        place.publish(&script(&format!("blocks-{n}"), [Act::BlockMs(40_000)])).await;
    }
    file.until("one blocks at least", |lines| lines.iter().any(|line| line.label.starts_with("blocks-"))).await;
    let stopped = std::time::Instant::now();
    worker.sigterm();
    worker.wait_exit(Duration::from_secs(30)).await;
    // The handlers block for ten times as long: a machine under load is reported from a process that waits for them.
    assert!(stopped.elapsed() < Duration::from_secs(20), "{:?}", stopped.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once_and_says_what_was_cut() {
    let (place, file) = (Place::shared("twice").await, RunFile::new());
    let worker = place.process(&file, &["--drain-timeout", "100s", "--grace-period", "120s"]);
    place.declared().await;
    file.until("the worker works", |lines| !labels(lines, "probe").is_empty()).await;
    publish(&place.broker, &place.queue, &script("cut", [Act::WorkMs(90_000)])).id("order-17").await.unwrap();
    file.until("the job runs", |lines| lines.iter().any(|line| line.label == "cut")).await;
    worker.sigterm();
    eventually("it drains", LONG, async || worker.count("stopping: no new jobs") == 1).await;
    place.publish(&script("waits", [Act::Succeed])).await;
    let raw = place.raw().await;
    eventually("it has requeued the rest", LONG, async || raw.depth(&place.queue).await.unwrap() == Some(1)).await;
    // One that follows at once counts as the first.
    eventually("the second signal ends it", LONG, async || {
        worker.sigterm();
        worker.has_ended()
    })
    .await;
    let status = worker.wait_exit(LONG).await;
    assert_eq!(status.code(), Some(143), "{:#?}", worker.lines());
    let lines = worker.lines();
    let reported = lines.iter().find(|line| line.contains("second stop signal")).expect("a line that says so");
    assert!(reported.contains("jobs=1") && reported.contains("order-17"), "{reported}");
}
