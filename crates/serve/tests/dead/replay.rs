//! Replays.

use std::{sync::Mutex, time::Duration};

use leveret::{Broker, testing};
use leveret_harness::{eventually, eventually_eq};
use leveret_serve::dead::{
    DeadLetterService, Error, direct,
    edit::CheckedAgainst,
    replay::{ReplayOptions, ReplayProgress},
};
use leveret_store::{AuditStamp, DeadFilter, DeadSource, DeadState, JobState, NewDead, ReplayLease, Selection};
use tokio_util::sync::CancellationToken;

use crate::stage::{Charge, Stage, all, any};

pub(crate) const BY: &str = "anna";

#[tokio::test]
async fn all_letters_are_replayed_under_their_ids_and_marked() {
    let stage = Stage::new().await;
    stage.bury(1..=40).await;
    stage.fix();
    let seen = Mutex::new(Vec::new());
    let note = |progress: &ReplayProgress| seen.lock().unwrap().push(progress.replayed);
    let summary = stage.dead().replay(&all(), &ReplayOptions::default(), BY, note).await.unwrap();
    assert_eq!((summary.total, summary.replayed, summary.returned, summary.outcome.as_str()), (40, 40, 0, "done"));
    assert_eq!(stage.charged().await, (1..=40).collect::<Vec<_>>());
    let ids = stage.ledger.done.lock().unwrap().clone();
    assert!(ids.iter().all(|(id, cents)| *id == format!("c{cents}")), "{ids:?}");
    assert_eq!(seen.lock().unwrap().last(), Some(&40));
    let letters = stage.store.dead_letters(&any(), None, 100).await.unwrap().items;
    assert!(letters.iter().all(|letter| letter.state == DeadState::Replayed), "{letters:?}");
    let log = stage.store.audit_log(None, 10).await.unwrap().items;
    assert!(log.iter().any(|entry| entry.action == "replay" && entry.actor == BY), "{log:?}");
}

#[tokio::test]
async fn a_letter_is_replayed_into_the_lane_of_its_priority() {
    let stage = Stage::new().await;
    let publish = |priority| stage.broker.publisher().publish(&Charge { cents: 1 }).lanes().priority(priority);
    let count = || ["money.high", "money", "money.low"].map(|queue| stage.published(queue));
    for priority in [9, 4, 0] {
        publish(priority).await.unwrap();
    }
    testing::idle(&stage.broker).await;
    stage.fix();
    assert_eq!(count(), [1, 1, 1]);
    direct::replay(&stage.broker, "money", (None, None), 3, |_| ()).await.unwrap();
    assert_eq!((stage.charged().await.len(), count()), (3, [2, 2, 2]));

    stage.ledger.fixed.store(false, std::sync::atomic::Ordering::SeqCst);
    for priority in [9, 0] {
        publish(priority).await.unwrap();
    }
    stage.bury([2]).await;
    stage.fix();
    stage.dead().replay(&all(), &ReplayOptions::default(), BY, |_| ()).await.unwrap();
    assert_eq!((stage.charged().await.len(), count()), (6, [4, 4, 4]));
}

#[tokio::test]
async fn a_group_or_ids_are_replayed_and_the_other_letters_stay() {
    let stage = Stage::new().await;
    let letters = stage.bury(1..=4).await;
    stage.fix();
    let ids = Selection::Ids(vec![letters[1].id, letters[2].id]);
    stage.dead().replay(&ids, &ReplayOptions::default(), BY, |_| ()).await.unwrap();
    assert_eq!(stage.charged().await, [2, 3]);
    let group = DeadFilter { fingerprint: Some(letters[0].fingerprint.clone()), ..DeadFilter::default() };
    let summary = stage.dead().replay(&Selection::Filter(group), &ReplayOptions::default(), BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, stage.charged().await), (2, vec![1, 2, 3, 4]));
}

#[tokio::test]
async fn an_edited_payload_is_checked_first_and_replayed_instead_of_the_original() {
    let stage = Stage::new().await;
    let id = stage.bury([1]).await[0].id;
    stage.fix();
    let dead = stage.dead();
    let Err(Error::Payload { field_errors, .. }) = dead.edit(id, br#"{"cents": "two"}"#, BY).await else {
        panic!("refused")
    };
    assert_eq!(field_errors[0].pointer, "/payload/cents");
    assert!(matches!(dead.edit(id, b"no JSON", BY).await, Err(Error::Payload { .. })));
    assert_eq!(dead.edit(id, br#"{"cents": 2}"#, BY).await.unwrap(), CheckedAgainst::Schema);
    dead.replay(&all(), &ReplayOptions::default(), BY, |_| ()).await.unwrap();
    assert_eq!(stage.charged().await, [2]);
    let error = dead.edit(id, br#"{"cents": 3}"#, BY).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("dead letter {id} was replayed at 2")), "{error}");
    let error = dead.revert(id, BY).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("dead letter {id} was replayed at 2")), "{error}");
    assert!(matches!(dead.edit(id + 1, br#"{"cents": 3}"#, BY).await, Err(Error::NoLetter(_))));
}

#[tokio::test]
async fn the_status_of_a_tracked_job_leaves_dead_at_once() {
    let stage = Stage::new().await;
    stage.broker.publisher().publish(&Charge { cents: 7 }).id("c7").track().await.unwrap();
    stage.bury([]).await;
    assert_eq!(stage.store.job("c7").await.unwrap().unwrap().state, JobState::Dead);
    stage.dead().replay(&all(), &ReplayOptions::default(), BY, |_| ()).await.unwrap();
    assert_eq!(stage.store.job("c7").await.unwrap().unwrap().state, JobState::Queued);
}

#[tokio::test]
async fn an_edited_letter_without_an_origin_stays_the_same_job() {
    let stage = Stage::new().await;
    let id = stage.bury([1]).await[0].id;
    stage.fix();
    let letter = stage.store.letter(id).await.unwrap().unwrap();
    let message = leveret::reader::RawMessage::from_parts(&letter.properties, letter.payload).unwrap();
    assert!(message.origin().starts_with("body-"), "{}", message.origin());
    let origin = message.origin_digest();
    let (dead, tracker) = (stage.dead(), stage.track());
    dead.edit(id, br#"{"cents": 2}"#, BY).await.unwrap();
    dead.replay(&all(), &ReplayOptions { track: true, ..ReplayOptions::default() }, BY, |_| ()).await.unwrap();
    assert_eq!(stage.charged().await, [2]);
    let succeeded = async || stage.store.job("c1").await.unwrap().is_some_and(|job| job.state == JobState::Succeeded);
    eventually("its end is known", Duration::from_secs(20), succeeded).await;
    assert_eq!(stage.store.job("c1").await.unwrap().unwrap().origin, Some(origin));
    tracker.abort();
}

#[tokio::test]
async fn a_letter_without_a_queue_stays_dead_with_the_reason() {
    let stage = Stage::new().await;
    let letters = stage.bury([1, 2]).await;
    let options = ReplayOptions { queue: Some("nowhere".into()), ..ReplayOptions::default() };
    let summary = stage.dead().replay(&all(), &options, BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, summary.returned, summary.failed.len()), (0, 2, 2));
    assert_eq!(summary.failed[0].id, letters[0].id);
    assert!(summary.failed[0].reason.contains("nowhere"), "{summary:?}");
    assert_eq!(stage.letters().await.len(), 2);
}

#[tokio::test]
async fn an_interrupted_replay_resumes_where_it_was() {
    let stage = Stage::new().await;
    stage.bury(1..=30).await;
    stage.fix();
    let dead = stage.dead();
    let options = ReplayOptions { rate: Some(20.0), ..ReplayOptions::default() };
    let cut = tokio::time::timeout(Duration::from_millis(700), dead.replay(&all(), &options, BY, |_| ())).await;
    assert!(cut.is_err(), "thirty at twenty a second take longer");
    let open = stage.store.open_replays().await.unwrap().remove(0);
    assert!(open.replayed > 0 && open.replayed < 30, "{open:?}");
    let summary = dead.resume(open.id, "bert", |_| ()).await.unwrap();
    assert_eq!((summary.total, summary.replayed), (30, 30));
    let mut charged = stage.charged().await;
    charged.dedup();
    assert_eq!(charged, (1..=30).collect::<Vec<_>>());
    assert!(matches!(dead.resume(open.id, BY, |_| ()).await, Err(Error::Ended(_))));
}

/// Opens a replay whose process was killed at once: its lease has ended.
pub(crate) async fn abandoned(stage: &Stage, options: &ReplayOptions) -> i64 {
    let killed = ReplayLease { owner: "killed", until: 1 };
    let (options, by) = (serde_json::to_value(options).unwrap(), AuditStamp { actor: BY, at: 1 });
    stage.store.start_replay(&all(), &options, by, killed).await.unwrap().id
}

#[tokio::test]
async fn a_replay_whose_process_was_killed_is_resumed_by_a_server() {
    let stage = Stage::new().await;
    stage.bury(1..=5).await;
    stage.fix();
    let replay = abandoned(&stage, &ReplayOptions::default()).await;
    let (dead, stop) = (stage.dead(), CancellationToken::new());
    let (other, also) = (stage.dead(), stop.clone());
    let servers =
        tokio::spawn(async move { tokio::join!(dead.resume_abandoned(stop.clone()), other.resume_abandoned(stop)) });
    let ended = async || stage.store.replay(replay).await.unwrap().unwrap().outcome;
    eventually_eq("it ends", Duration::from_secs(20), Some("done".to_owned()), ended).await;
    assert_eq!(stage.charged().await, [1, 2, 3, 4, 5]);
    also.cancel();
    servers.await.unwrap();
}

#[tokio::test]
async fn a_replay_that_is_run_elsewhere_is_not_run_here() {
    let stage = Stage::new().await;
    stage.bury(1..=30).await;
    stage.fix();
    let (one, two) = (stage.dead(), stage.dead());
    let options = ReplayOptions { rate: Some(30.0), ..ReplayOptions::default() };
    let lease = one.start(&all(), &options, BY).await.unwrap();
    let replay = lease.replay().id;
    let running = tokio::spawn(async move { one.run_leased(lease, BY, |_| ()).await });
    assert!(matches!(two.lease(replay).await, Err(Error::Running(_))));
    assert_eq!(running.await.unwrap().unwrap().replayed, 30);
    assert_eq!(stage.charged().await, (1..=30).collect::<Vec<_>>(), "each once");
}

#[tokio::test]
async fn an_unreachable_broker_leaves_the_replay_open() {
    let stage = Stage::new().await;
    stage.bury([1]).await;
    let away = leveret::Config {
        amqp_url: vec!["amqp://127.0.0.1:1".into()],
        publish_timeout: Duration::from_millis(50),
        ..leveret::Config::default()
    };
    let away = DeadLetterService::new(&Broker::amqp(away).unwrap(), &stage.store, &stage.catalogue);
    let interrupted = away.replay(&all(), &ReplayOptions::default(), BY, |_| ()).await;
    let Err(Error::Interrupted { replay, .. }) = interrupted else { panic!("{interrupted:?}") };
    stage.fix();
    assert_eq!(stage.dead().resume(replay, BY, |_| ()).await.unwrap().replayed, 1);
    assert_eq!(stage.charged().await, [1]);
}

#[tokio::test]
async fn what_was_purged_can_be_restored_and_replayed() {
    let stage = Stage::new().await;
    stage.bury([1, 2]).await;
    let by = AuditStamp { actor: BY, at: 1 };
    assert_eq!(stage.store.purge(&all(), by).await.unwrap(), 2);
    assert_eq!(stage.dead().replay(&all(), &ReplayOptions::default(), BY, |_| ()).await.unwrap().total, 0);
    assert_eq!(stage.store.restore(&all(), by).await.unwrap(), 2);
    stage.fix();
    stage.dead().replay(&all(), &ReplayOptions::default(), BY, |_| ()).await.unwrap();
    assert_eq!(stage.charged().await, [1, 2]);
}

#[tokio::test]
async fn letters_that_are_too_large_to_publish_do_not_stop_the_others() {
    let stage = Stage::new().await;
    let small = stage.bury([1]).await.remove(0);
    let small = stage.store.letter(small.id).await.unwrap().unwrap();
    let as_new = |payload| NewDead {
        source: DeadSource::Dead,
        queue: "money".into(),
        job_id: Some("again".into()),
        job: "charge".into(),
        kind: "permanent".into(),
        error: String::new(),
        attempt: 1,
        hop: 1,
        failed_at: None,
        properties: small.properties.clone(),
        payload,
    };
    let mut letters: Vec<_> = (0..4).map(|more| as_new(vec![b' '; (3 << 20) + more])).collect();
    letters.push(as_new(small.payload.clone()));
    stage.store.ingest(&letters, 1).await.unwrap();
    stage.fix();
    let summary = stage.dead().replay(&all(), &ReplayOptions::default(), BY, |_| ()).await.unwrap();
    assert_eq!((summary.total, summary.replayed, summary.failed.len()), (6, 2, 4), "{summary:?}");
}

#[tokio::test]
async fn an_interrupted_stop_ends_the_replay_when_it_is_resumed() {
    let stage = Stage::new().await;
    stage.bury([1, 2]).await;
    stage.fix();
    let replay = abandoned(&stage, &ReplayOptions::default()).await;
    // The process that stops the replay is killed at once: its lease has ended.
    let lease = ReplayLease { owner: "killed", until: 1 };
    assert!(stage.store.stop_replay(replay, lease, "stopped by bert").await.unwrap());
    let summary = stage.dead().resume(replay, BY, |_| ()).await.unwrap();
    assert_eq!((summary.replayed, summary.returned, summary.outcome.as_str()), (0, 2, "stopped by bert"));
    assert_eq!(stage.letters().await.len(), 2);
    assert!(!stage.store.stop_replay(replay, lease, "stopped by bert").await.unwrap(), "it has ended");
}

#[tokio::test]
async fn a_replay_with_an_almost_zero_rate_resumes_without_a_panic_and_can_be_stopped() {
    let stage = Stage::new().await;
    stage.bury(1..=3).await;
    stage.fix();
    let (owner, by) = ("a killed process", AuditStamp { actor: BY, at: 1 });
    let options = serde_json::json!({ "rate": 1e-19 });
    let replay = stage.store.start_replay(&all(), &options, by, ReplayLease { owner, until: 1 }).await.unwrap().id;
    let dead = stage.dead();
    let running = tokio::spawn(async move { dead.resume(replay, BY, |_| ()).await });
    eventually("the first is published", Duration::from_secs(20), async || {
        stage.store.replay(replay).await.unwrap().unwrap().replayed == 1
    })
    .await;
    let ended = stage.dead().stop(replay, "bert").await.unwrap();
    assert_eq!((ended.replayed, ended.outcome.as_deref()), (1, Some("stopped by bert")));
    assert!(matches!(running.await.unwrap(), Err(Error::Running(_))), "it is another's");
    assert_eq!((stage.letters().await.len(), stage.charged().await.len()), (2, 1));
    assert!(matches!(stage.dead().stop(replay, "bert").await, Err(Error::Ended(_))));
    assert!(matches!(stage.dead().stop(4711, "bert").await, Err(Error::NoReplay(_))));
}
