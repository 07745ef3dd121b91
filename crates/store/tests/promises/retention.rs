//! Rows that are deleted, and rows that are kept.

use std::time::Duration;

use leveret::{status_update::Transition, time::at_unix_ms};
use leveret_store::{DeadFilter, IdempotencyClaim, IdempotencyRequest, Pruned, Retention, Selection};

use crate::database::{ANNA, DAY, Database, HOUR, NOW, OpenStore, RUN};
use crate::dead::{all, dead, letter};
use crate::status::event;

leveret_harness::on_both_databases! {
    jobs_are_kept_as_long_as_their_outcome_says,
    only_letters_that_are_done_with_are_deleted,
    an_idempotency_key_is_forgotten_after_a_day,
    more_than_a_portion_is_deleted,
}

async fn jobs_are_kept_as_long_as_their_outcome_says(database: Database) {
    let store = database.open().await;
    let died = Transition::Dead { kind: "handler".into(), error: "no".into() };
    let events = [
        event("succeeded", 0, 0, Transition::Succeeded { result: None, too_large: None }),
        event("dead", 0, 0, died),
        event("cancelled", 0, 0, Transition::Cancelled),
        event("running", 0, 0, Transition::Started),
        event("far off", 0, 0, Transition::Queued { due: Some(at_unix_ms(NOW + 100 * DAY)), expires: None }),
    ];
    store.record(&events).await.unwrap();
    let keep = Retention::default();
    for (now, pruned) in [
        (NOW + DAY, 0),
        (NOW + DAY + 1, 2),
        (NOW + 7 * DAY, 0),
        (NOW + 7 * DAY + 1, 1),
        (NOW + 90 * DAY, 0),
        (NOW + 90 * DAY + 1, 1),
        (NOW + 190 * DAY, 0),
        (NOW + 190 * DAY + 1, 1),
    ] {
        assert_eq!(store.prune(now, &keep).await.unwrap(), Pruned { jobs: pruned, ..Pruned::default() }, "{now}");
    }
    assert!(store.timeline("succeeded").await.unwrap().is_empty());
}

async fn only_letters_that_are_done_with_are_deleted(database: Database) {
    let store = database.open().await;
    let taken = store.ingest(&(0..4).map(letter).collect::<Vec<_>>(), NOW).await.unwrap();
    store.purge(&Selection::Ids(vec![taken[0]]), ANNA).await.unwrap();
    let replay = store.start_replay(&Selection::Ids(taken[1..3].to_vec()), &"".into(), ANNA, RUN).await.unwrap();
    store.replayed(replay.id, &taken[1..2], ANNA).await.unwrap();

    let keep = Retention::default();
    assert_eq!(store.prune(NOW + 7 * DAY, &keep).await.unwrap().letters, 0);
    assert_eq!(store.prune(NOW + 7 * DAY + 1, &keep).await.unwrap().letters, 2);
    assert!(store.history(taken[0]).await.unwrap().is_empty());
    assert_eq!(store.finish_replay(replay.id, RUN.owner, "stopped", ANNA).await.unwrap(), Some(1));
    assert_eq!(dead(&store).await, 2);
    assert_eq!(store.prune(NOW + 9999 * DAY, &keep).await.unwrap().letters, 0);
    // The name of their group stays until they are deleted.
    assert_eq!(store.groups(&DeadFilter::default(), 10).await.unwrap()[0].count, 2);
    store.purge(&all(), ANNA).await.unwrap();
    assert_eq!(store.prune(NOW + 9999 * DAY, &keep).await.unwrap().letters, 2);
    assert!(store.groups(&DeadFilter { states: Vec::new(), ..DeadFilter::default() }, 10).await.unwrap().is_empty());
}

async fn an_idempotency_key_is_forgotten_after_a_day(database: Database) {
    let store = database.open().await;
    let request = IdempotencyRequest { key: "k", body_hash: "h", task_ids: &["a".into()] };
    let lease = Duration::from_secs(30);
    store.claim(&request, NOW, lease).await.unwrap();
    store.finish("k", &"a".into()).await.unwrap();
    assert_eq!(store.prune(NOW + 24 * HOUR, &Retention::default()).await.unwrap().claims, 0);
    assert_eq!(store.prune(NOW + 24 * HOUR + 1, &Retention::default()).await.unwrap().claims, 1);
    let again = store.claim(&request, NOW + 25 * HOUR, lease).await.unwrap();
    assert!(matches!(again, IdempotencyClaim::New { .. }));
}

async fn more_than_a_portion_is_deleted(database: Database) {
    let store = database.open().await;
    let events: Vec<_> = (0..2500).map(|number| event(&number.to_string(), 0, 0, Transition::Cancelled)).collect();
    store.record(&events).await.unwrap();
    assert_eq!(store.prune(NOW + 2 * DAY, &Retention::default()).await.unwrap().jobs, 2500);
    assert!(store.counts().await.unwrap().is_empty());
}
