//! Replays, also if they are killed at any moment.

use leveret_store::{DeadFilter, DeadState, NewDead, ReplayLease, Selection};
use serde_json::json;

use crate::database::{ANNA, Database, HOUR, NOW, OpenStore, RUN};
use crate::dead::{all, dead, ids, letter};

leveret_harness::on_both_databases! {
    a_replay_goes_on_after_a_kill_where_it_was,
    a_replay_leaves_its_trace,
    what_a_replay_did_not_publish_lies_there_again_when_it_ends,
    a_letter_is_in_one_replay_at_a_time,
    a_replay_publishes_the_edited_payload,
    large_letters_are_few_at_a_time,
    a_replay_is_run_by_one_at_a_time,
    canaries_that_were_published_are_known_again,
}

async fn a_replay_goes_on_after_a_kill_where_it_was(database: Database) {
    let store = database.open().await;
    let taken = store.ingest(&(0..10).map(letter).collect::<Vec<_>>(), NOW).await.unwrap();
    let replay = store.start_replay(&all(), &json!({"rate": 5}), ANNA, RUN).await.unwrap();
    assert_eq!((replay.total, dead(&store).await), (10, 0));
    // Letters that come meanwhile are not part of it.
    store.ingest(&[letter(99)], NOW).await.unwrap();
    let first = store.next_of_replay(replay.id, 0, 4).await.unwrap();
    assert_eq!(first.iter().map(|letter| letter.about.id).collect::<Vec<_>>(), taken[..4]);
    assert_eq!(store.replayed(replay.id, &taken[..3], ANNA).await.unwrap(), 3);
    assert_eq!(store.replayed(replay.id, &taken[..3], ANNA).await.unwrap(), 0);
    store.close().await;

    let store = database.open().await;
    let open = store.open_replays().await.unwrap();
    assert_eq!((open.len(), open[0].replayed, &open[0].options), (1, 3, &json!({"rate": 5})));
    let rest = store.next_of_replay(replay.id, 0, 100).await.unwrap();
    let rest: Vec<_> = rest.iter().map(|letter| letter.about.id).collect();
    assert_eq!(rest, taken[3..]);
    store.replayed(replay.id, &rest, ANNA).await.unwrap();
    assert!(store.next_of_replay(replay.id, 0, 100).await.unwrap().is_empty());
    assert_eq!(store.finish_replay(replay.id, RUN.owner, "done", ANNA).await.unwrap(), Some(0));
    assert!(store.open_replays().await.unwrap().is_empty());
}

async fn a_replay_leaves_its_trace(database: Database) {
    let store = database.open().await;
    let taken = store.ingest(&[letter(1), letter(2)], NOW).await.unwrap();
    let replay = store.start_replay(&all(), &json!({}), ANNA, RUN).await.unwrap();
    store.replayed(replay.id, &taken, ANNA).await.unwrap();
    store.finish_replay(replay.id, RUN.owner, "done", ANNA).await.unwrap();
    let done = store.replay(replay.id).await.unwrap().unwrap();
    assert_eq!((done.replayed, done.outcome.as_deref(), done.finished_at), (2, Some("done"), Some(NOW)));
    let kept = store.letter(taken[0]).await.unwrap().unwrap().about;
    assert_eq!((kept.state, kept.replay_id), (DeadState::Replayed, Some(replay.id)));
    let history = store.history(taken[0]).await.unwrap();
    assert_eq!(history.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(), ["replaying", "replayed"]);
    assert_eq!(history[1].detail, Some(json!({"replay": replay.id})));
}

async fn what_a_replay_did_not_publish_lies_there_again_when_it_ends(database: Database) {
    let store = database.open().await;
    let taken = store.ingest(&(0..5).map(letter).collect::<Vec<_>>(), NOW).await.unwrap();
    let replay = store.start_replay(&all(), &json!({"canary": 1}), ANNA, RUN).await.unwrap();
    store.replayed(replay.id, &taken[..1], ANNA).await.unwrap();
    assert_eq!(store.finish_replay(replay.id, RUN.owner, "the canary died", ANNA).await.unwrap(), Some(4));
    assert_eq!(dead(&store).await, 4);
    let replayed = DeadFilter { states: vec![DeadState::Replayed], ..DeadFilter::default() };
    assert_eq!(ids(&store, &replayed).await, taken[..1]);
    // The replay has ended: a late call changes nothing.
    assert_eq!(store.replayed(replay.id, &taken, ANNA).await.unwrap(), 0);
}

async fn a_letter_is_in_one_replay_at_a_time(database: Database) {
    let store = database.open().await;
    let taken = store.ingest(&(0..3).map(letter).collect::<Vec<_>>(), NOW).await.unwrap();
    let first = store.start_replay(&Selection::Ids(taken[..2].to_vec()), &json!({}), ANNA, RUN).await.unwrap();
    let second = store.start_replay(&all(), &json!({}), ANNA, RUN).await.unwrap();
    assert_eq!((first.total, second.total), (2, 1));
    assert_eq!(store.replayed(second.id, &taken, ANNA).await.unwrap(), 1);
    assert_eq!(store.purge(&all(), ANNA).await.unwrap(), 0);
    assert_eq!(store.finish_replay(second.id, RUN.owner, "done", ANNA).await.unwrap(), Some(0));
    assert_eq!(store.next_of_replay(first.id, 0, 10).await.unwrap().len(), 2);
}

async fn a_replay_publishes_the_edited_payload(database: Database) {
    let store = database.open().await;
    let id = store.ingest(&[letter(1)], NOW).await.unwrap()[0];
    store.edit(id, b"edited", ANNA).await.unwrap();
    let replay = store.start_replay(&all(), &json!({}), ANNA, RUN).await.unwrap();
    assert_eq!(store.next_of_replay(replay.id, 0, 1).await.unwrap()[0].payload, b"edited");
}

async fn large_letters_are_few_at_a_time(database: Database) {
    let store = database.open().await;
    let large = |number| NewDead { payload: vec![b' '; 5 << 20], ..letter(number) };
    let taken = store.ingest(&[letter(0), large(1), large(2), large(3)], NOW).await.unwrap();
    let replay = store.start_replay(&all(), &json!({}), ANNA, RUN).await.unwrap();
    let next = async |after| -> Vec<_> {
        let letters = store.next_of_replay(replay.id, after, 100).await.unwrap();
        letters.iter().map(|letter| letter.about.id).collect()
    };
    assert_eq!(next(0).await, taken[..3], "until they are eight megabytes, and the one that makes them so");
    assert_eq!(next(taken[2]).await, taken[3..]);
    assert!(next(taken[3]).await.is_empty());
}

async fn a_replay_is_run_by_one_at_a_time(database: Database) {
    let store = database.open().await;
    let taken = store.ingest(&[letter(1), letter(2)], NOW).await.unwrap();
    let replay = store.start_replay(&all(), &json!({}), ANNA, RUN).await.unwrap().id;
    let other = ReplayLease { owner: "run-2", until: NOW + 2 * HOUR };
    assert!(!store.take_replay(replay, other, NOW).await.unwrap(), "it is run");
    assert!(!store.renew_replay(replay, other).await.unwrap());
    assert_eq!(store.finish_replay(replay, other.owner, "done", ANNA).await.unwrap(), None);
    assert_eq!(store.next_of_replay(replay, 0, 9).await.unwrap().len(), 2, "none was returned");
    assert!(store.renew_replay(replay, ReplayLease { until: NOW + 5, ..RUN }).await.unwrap());

    // The first process halts. Its late calls mark what it published, but do not end the replay.
    let (one, two) = tokio::join!(
        store.take_replay(replay, other, NOW + 5),
        store.take_replay(replay, ReplayLease { owner: "run-3", ..other }, NOW + 5)
    );
    assert_ne!(one.unwrap(), two.unwrap());
    assert!(!store.renew_replay(replay, RUN).await.unwrap());
    assert_eq!(store.replayed(replay, &taken[..1], ANNA).await.unwrap(), 1);
    assert_eq!(store.finish_replay(replay, RUN.owner, "done", ANNA).await.unwrap(), None);
    assert_eq!(store.open_replays().await.unwrap()[0].leased_until, other.until);
}

async fn canaries_that_were_published_are_known_again(database: Database) {
    let store = database.open().await;
    let taken = store.ingest(&(0..5).map(letter).collect::<Vec<_>>(), NOW).await.unwrap();
    let replay = store.start_replay(&all(), &json!({}), ANNA, RUN).await.unwrap();
    assert!(!replay.judged);
    store.replayed(replay.id, &taken[..2], ANNA).await.unwrap();
    let published = store.replayed_by(replay.id, 9).await.unwrap();
    assert_eq!(published.iter().map(|letter| letter.id).collect::<Vec<_>>(), taken[..2]);
    store.judged(replay.id).await.unwrap();
    assert!(store.replay(replay.id).await.unwrap().unwrap().judged);
}
