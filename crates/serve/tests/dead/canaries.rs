//! The canaries of a replay: a few letters whose outcome decides about the others.

use std::{sync::Mutex, time::Duration};

use leveret::{
    status_update::{StatusUpdate, Transition},
    testing,
};
use leveret_harness::eventually;
use leveret_serve::dead::replay::{ReplayOptions, ReplayProgress};
use leveret_store::ReplayLease;

use crate::{
    replay::{BY, abandoned},
    stage::{Stage, all},
};

#[tokio::test]
async fn canaries_that_fail_as_before_stop_the_replay() {
    let stage = Stage::new().await;
    stage.bury(1..=10).await;
    let tracker = stage.track();
    let options = ReplayOptions { canary: Some(3), ..ReplayOptions::default() };
    let summary = stage.dead().replay(&all(), &options, BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, summary.returned), (3, 7), "{summary:?}");
    assert!(summary.outcome.contains("failed as before: permanent"), "{summary:?}");
    assert_eq!(stage.letters().await.len(), 7);
    tracker.abort();
}

#[tokio::test]
async fn a_canary_is_not_judged_by_another_job_with_its_id() {
    let stage = Stage::new().await;
    let letter = stage.bury([1, 2]).await.remove(0);
    let other = StatusUpdate {
        id: "c1".into(),
        job: "charge".into(),
        queue: "money".into(),
        origin: Some("another".into()),
        label: None,
        priority: None,
        attempt: 1,
        hop: letter.hop + 1,
        enqueued_at: None,
        // Later than everything in the test, so that the plain id stays this job's.
        at: leveret::time::at_unix_ms(4_000_000_000_000),
        worker: None,
        transition: Transition::Succeeded { result: None, too_large: None },
    };
    stage.store.record(&[other]).await.unwrap();
    let tracker = stage.track();
    let options = ReplayOptions { canary: Some(1), ..ReplayOptions::default() };
    let summary = stage.dead().replay(&all(), &options, BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, summary.returned), (1, 1), "{summary:?}");
    assert!(summary.outcome.contains("failed as before"), "{summary:?}");
    tracker.abort();
}

#[tokio::test]
async fn canaries_that_succeed_let_the_other_letters_follow() {
    let stage = Stage::new().await;
    stage.bury(1..=10).await;
    stage.fix();
    let tracker = stage.track();
    let options = ReplayOptions { canary: Some(3), ..ReplayOptions::default() };
    let waited = Mutex::new(false);
    let note = |progress: &ReplayProgress| *waited.lock().unwrap() |= progress.waiting && progress.replayed == 3;
    let summary = stage.dead().replay(&all(), &options, BY, note).await.unwrap();
    assert_eq!((summary.replayed, summary.outcome.as_str()), (10, "done"));
    assert!(*waited.lock().unwrap());
    tracker.abort();
}

#[tokio::test]
async fn canaries_without_an_outcome_stop_the_replay() {
    let stage = Stage::new().await;
    stage.bury(1..=4).await;
    let options = ReplayOptions { canary: Some(2), canary_timeout: 0, ..ReplayOptions::default() };
    let summary = stage.dead().replay(&all(), &options, BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, summary.returned), (2, 2));
    assert!(summary.outcome.contains("no outcome of 2"), "{summary:?}");
}

#[tokio::test]
async fn canaries_are_not_forgotten_however_often_a_replay_is_interrupted() {
    let stage = Stage::new().await;
    stage.bury(1..=10).await;
    leveret::reader::declare_status_queue(&stage.broker).await.unwrap();
    let options = ReplayOptions { canary: Some(3), canary_timeout: 60, ..ReplayOptions::default() };
    let (replay, dead) = (abandoned(&stage, &options).await, stage.dead());
    for _ in 0..4 {
        // Without a tracker the replay waits for its canaries until it is interrupted.
        let lease = dead.lease(replay).await.unwrap();
        let cut = tokio::time::timeout(Duration::from_millis(500), dead.run_leased(lease, BY, |_| ())).await;
        assert!(cut.is_err());
        assert_eq!(stage.store.replay(replay).await.unwrap().unwrap().replayed, 3);
        assert!(stage.store.take_replay(replay, ReplayLease { owner: "killed", until: 1 }, u64::MAX).await.unwrap());
    }
    let tracker = stage.track();
    let lease = dead.lease(replay).await.unwrap();
    let summary = dead.run_leased(lease, BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, summary.returned), (3, 7), "{summary:?}");
    assert!(summary.outcome.contains("failed as before"), "{summary:?}");
    tracker.abort();
}

#[tokio::test]
async fn a_canary_that_is_cancelled_stops_the_replay() {
    let stage = Stage::new().await;
    let letter = stage.bury([1, 2]).await.remove(0);
    // A queue without a worker.
    let parked = testing::dead_letters(&stage.broker, "parked").await.unwrap();
    assert!(parked.is_empty());
    let options = ReplayOptions { canary: Some(1), queue: Some("parked.dead".into()), ..ReplayOptions::default() };
    let dead = stage.dead();
    let cancel = async {
        let replayed = async || stage.store.job("c1").await.unwrap().is_some();
        eventually("it is replayed", Duration::from_secs(20), replayed).await;
        let cancelled = StatusUpdate {
            id: "c1".into(),
            job: "charge".into(),
            queue: "money".into(),
            origin: stage.store.job("c1").await.unwrap().unwrap().origin,
            label: None,
            priority: None,
            attempt: 1,
            hop: letter.hop + 1,
            enqueued_at: None,
            at: leveret::time::at_unix_ms(letter.taken_at),
            worker: None,
            transition: Transition::Cancelled,
        };
        stage.store.record(&[cancelled]).await.unwrap();
    };
    let every = all();
    let (summary, ()) = tokio::join!(dead.replay(&every, &options, BY, |_| ()), cancel);
    let summary = summary.unwrap();
    assert_eq!((summary.replayed, summary.returned), (1, 1), "{summary:?}");
    assert!(summary.outcome.contains("was cancelled"), "{summary:?}");
}
