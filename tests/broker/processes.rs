//! Workers that are stopped, killed or crash.

use std::{collections::HashMap, time::Duration};

use leveret::{ErrorKind, testing::dead_letters};
use leveret_harness::eventually;
use leveret_tests::jobs::{Act, Script, publish, script};

use crate::support::{LONG, Place, RunFile, labels};

async fn publish_many(place: &Place, jobs: impl IntoIterator<Item = Script>) {
    let publishes: Vec<_> = jobs.into_iter().map(|job| publish(&place.broker, &place.queue, &job)).collect();
    let publishes = publishes.into_iter().map(IntoFuture::into_future);
    for published in futures_util::future::join_all(publishes).await {
        published.unwrap();
    }
}

#[tokio::test]
async fn a_delay_passes_in_the_broker_while_no_worker_lives() {
    let (place, file) = (Place::shared("delay").await, RunFile::new());
    let only = place.process(&file, &["--retry-ms", "3000"]);
    place.declared().await;
    place.publish(&script("delayed", [Act::Fail("down".into()), Act::Succeed])).await;
    file.until("the first attempt has failed", |lines| lines.iter().any(|line| line.ended && line.label == "delayed"))
        .await;
    eventually("its copy is confirmed and the original acked", LONG, async || {
        only.count("attempt failed, trying again") == 1
            && place.raw().await.depth(&place.queue).await.unwrap() == Some(0)
    })
    .await;
    // The ack leaves right after the confirm; give neither a chance to be the kill's victim.
    tokio::time::sleep(Duration::from_millis(500)).await;
    only.sigkill();
    only.wait_exit(LONG).await;
    eventually("the delay is over", LONG, async || place.raw().await.depth(&place.queue).await.unwrap() == Some(1))
        .await;
    // A script begins anew in a new process: its failure there is retried later than this test looks.
    let _next = place.process(&file, &["--retry-ms", "60000"]);
    file.until("the job has run again", |lines| lines.iter().any(|line| line.ended && line.attempt == 2)).await;
    assert_eq!(file.of("delayed").iter().filter(|line| line.ended).count(), 2);
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_thousand_jobs_loses_none_and_doubles_only_those_in_hand() {
    let (place, file) = (Place::shared("kill").await, RunFile::new());
    let in_hand = 40;
    let arguments = ["--prefetch", "40", "--concurrency", "20"];
    let first = place.process(&file, &arguments);
    place.declared().await;
    publish_many(&place, (0..1000).map(|n| script(&format!("job-{n}"), [Act::WorkMs(5)]))).await;
    file.until("a good part is done", |lines| labels(lines, "job-").len() >= 300).await;
    first.sigkill();
    first.wait_exit(LONG).await;
    let _second = place.process(&file, &arguments);
    file.until("all are done", |lines| labels(lines, "job-").len() == 1000).await;
    let mut starts: HashMap<String, usize> = HashMap::new();
    for line in file.lines().into_iter().filter(|line| !line.ended && line.label.starts_with("job-")) {
        *starts.entry(line.label).or_default() += 1;
    }
    let doubled = starts.values().filter(|count| **count > 1).count();
    assert!(doubled <= in_hand, "{doubled} jobs ran twice with {in_hand} in hand");
}

#[tokio::test]
async fn a_job_that_kills_its_process_is_convicted_and_those_beside_it_are_done() {
    let (place, file) = (Place::shared("crash").await, RunFile::new());
    let arguments = ["--concurrency", "8", "--prefetch", "20"];
    let mut worker = place.process(&file, &arguments);
    place.declared().await;
    file.until("the worker works", |lines| !labels(lines, "probe").is_empty()).await;
    publish_many(&place, (0..10).map(|n| script(&format!("good-{n}"), [Act::WorkMs(300)]))).await;
    publish(&place.broker, &place.queue, &script("killer", [Act::Abort])).id("killer").await.unwrap();
    publish_many(&place, (10..20).map(|n| script(&format!("good-{n}"), [Act::WorkMs(300)]))).await;
    let mut crashes = 0;
    for _ in 0..7 {
        let settled = async || dead_letters(&place.broker, &place.queue).await.is_ok_and(|letters| !letters.is_empty());
        let over = async { eventually("the killer is convicted", LONG, settled).await };
        tokio::select! {
            () = over => break,
            _ = worker.wait_exit(LONG) => crashes += 1,
        }
        worker = place.process(&file, &arguments);
    }
    assert!(crashes <= 6, "{crashes} crashes");
    let letters = dead_letters(&place.broker, &place.queue).await.unwrap();
    assert_eq!((letters.len(), letters[0].id.as_deref()), (1, Some("killer")));
    assert_eq!(letters[0].kind, Some(ErrorKind::CrashLoop));
    file.until("all others are done", |lines| labels(lines, "good-").len() == 20).await;
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
