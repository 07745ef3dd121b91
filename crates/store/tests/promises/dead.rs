//! Dead letters: ingested once, found, grouped, edited, purged, exported and imported.

use futures_util::TryStreamExt;
use leveret_store::{DeadFilter, DeadLetter, DeadSource, DeadState, NewDead, Selection, Store, StoredDeadLetter};

use crate::database::{ANNA, Database, NOW, OpenStore};

leveret_harness::on_both_databases! {
    a_letter_is_kept_byte_for_byte,
    an_error_is_kept_as_long_as_workers_write_it,
    a_letter_is_ingested_once_however_often_it_is_delivered,
    without_an_id_a_letter_is_doubled_rather_than_lost,
    a_filter_finds_what_fits_all_of_it,
    pages_stay_right_while_letters_come,
    letters_that_died_of_the_same_are_one_group,
    an_edit_keeps_the_payload_it_died_with,
    what_was_purged_can_be_restored,
    an_export_is_imported_byte_for_byte_and_once,
    an_import_takes_back_what_was_purged,
}

pub(crate) fn letter(number: u64) -> NewDead {
    NewDead {
        source: DeadSource::Dead,
        queue: "email".into(),
        job_id: Some(format!("job-{number}")),
        job: "email.send".into(),
        kind: "handler".into(),
        error: format!("no mailbox {number}"),
        attempt: 5,
        hop: 4,
        failed_at: Some(NOW + number),
        properties: vec![0, 255, number as u8],
        payload: format!(r#"{{"to": {number}}}"#).into_bytes(),
    }
}

pub(crate) fn all() -> Selection {
    Selection::Filter(DeadFilter::default())
}

pub(crate) async fn ids(store: &Store, filter: &DeadFilter) -> Vec<i64> {
    let page = store.dead_letters(filter, None, 1000).await.unwrap();
    assert_eq!(page.items.len() as u64, store.count_dead(filter).await.unwrap());
    page.items.iter().map(|letter| letter.id).collect()
}

pub(crate) async fn dead(store: &Store) -> usize {
    ids(store, &DeadFilter::default()).await.len()
}

async fn a_letter_is_kept_byte_for_byte(database: Database) {
    let store = database.open().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let new = NewDead { payload: every_byte.clone(), properties: every_byte.clone(), ..letter(1) };
    let unrouted =
        NewDead { source: DeadSource::Unrouted, job_id: None, failed_at: None, payload: Vec::new(), ..letter(2) };
    let taken = store.ingest(&[new, unrouted], NOW + 9).await.unwrap();

    let kept = store.letter(taken[0]).await.unwrap().unwrap();
    assert_eq!((kept.payload, kept.properties, kept.original), (every_byte.clone(), every_byte, None));
    assert_eq!((kept.about.failed_at, kept.about.taken_at, kept.about.payload_bytes), (NOW + 1, NOW + 9, 256));
    assert_eq!((kept.about.state, kept.about.edited, kept.about.hop), (DeadState::Dead, false, 4));
    let kept = store.letter(taken[1]).await.unwrap().unwrap();
    assert_eq!((kept.about.source, kept.about.job_id, kept.about.failed_at), (DeadSource::Unrouted, None, NOW + 9));
    assert!(store.letter(taken[1] + 1).await.unwrap().is_none());
}

async fn an_error_is_kept_as_long_as_workers_write_it(database: Database) {
    let store = database.open().await;
    let (kind, error) = ("é".repeat(1_000), "é".repeat(10_000));
    let new = NewDead { kind: kind.clone(), error: error.clone(), ..letter(1) };
    let id = store.ingest(&[new], NOW).await.unwrap()[0];
    let kept = store.letter(id).await.unwrap().unwrap();
    let about = DeadLetter { kind, error, job_id: Some("other".into()), ..kept.about.clone() };
    assert_eq!(store.import(&[StoredDeadLetter { about, ..kept.clone() }], ANNA).await.unwrap(), 1);
    let imported = DeadFilter { job_id: Some("other".into()), ..DeadFilter::default() };
    let imported = store.dead_letters(&imported, None, 10).await.unwrap().items.remove(0);
    for letter in [kept.about, imported] {
        assert_eq!((letter.kind.len(), letter.error.len()), (254, 4096));
    }
    let groups = store.groups(&DeadFilter::default(), 10).await.unwrap();
    assert_eq!((groups.len(), groups[0].count, groups[0].kind.len()), (1, 2, 254));
}

async fn a_letter_is_ingested_once_however_often_it_is_delivered(database: Database) {
    let store = database.open().await;
    assert_eq!(store.ingest(&[letter(1), letter(2)], NOW).await.unwrap().len(), 2);
    // As after a commit whose answer was lost.
    assert!(store.ingest(&[letter(1), letter(2)], NOW).await.unwrap().is_empty());
    assert_eq!(store.ingest(&[letter(1), letter(3), letter(3)], NOW).await.unwrap().len(), 1);
    let other_hop = NewDead { hop: 6, ..letter(1) };
    let other_payload = NewDead { payload: b"x".to_vec(), ..letter(1) };
    assert_eq!(store.ingest(&[other_hop, other_payload], NOW).await.unwrap().len(), 2);
    // Two servers have it: one lost its channel, and the broker delivered it to the other.
    let other = database.open().await;
    let (at_one, at_other) = ([letter(4)], [letter(4)]);
    let (one, two) = tokio::join!(store.ingest(&at_one, NOW), other.ingest(&at_other, NOW));
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 1);
    store.purge(&all(), ANNA).await.unwrap();
    assert!(store.ingest(&[letter(1)], NOW).await.unwrap().is_empty(), "it was changed");
}

async fn without_an_id_a_letter_is_doubled_rather_than_lost(database: Database) {
    let store = database.open().await;
    let nameless = NewDead { job_id: None, ..letter(1) };
    assert_eq!(store.ingest(&[nameless.clone(), nameless.clone()], NOW).await.unwrap().len(), 2);
    assert_eq!(store.ingest(&[nameless], NOW).await.unwrap().len(), 1);
}

async fn a_filter_finds_what_fits_all_of_it(database: Database) {
    let store = database.open().await;
    let letters = [
        NewDead { error: "Connection refused: Ärger".into(), ..letter(1) },
        NewDead { queue: "slow".into(), kind: "timeout".into(), ..letter(2) },
        NewDead { job: "report.make".into(), payload: b"\xff needle \x00".to_vec(), ..letter(3) },
    ];
    let taken = store.ingest(&letters, NOW).await.unwrap();
    store.purge(&Selection::Ids(vec![taken[0]]), ANNA).await.unwrap();
    let fingerprint = store.letter(taken[1]).await.unwrap().unwrap().about.fingerprint;
    let lying = DeadFilter::default;
    let any = || DeadFilter { states: Vec::new(), ..DeadFilter::default() };
    for (filter, expected) in [
        (lying(), vec![3, 2]),
        (any(), vec![3, 2, 1]),
        (DeadFilter { states: vec![DeadState::Purged, DeadState::Replayed], ..any() }, vec![1]),
        (DeadFilter { queue: Some("slow".into()), ..any() }, vec![2]),
        (DeadFilter { job: Some("report.make".into()), ..any() }, vec![3]),
        (DeadFilter { job_id: Some("job-1".into()), ..any() }, vec![1]),
        (DeadFilter { kind: Some("timeout".into()), ..any() }, vec![2]),
        (DeadFilter { text: Some("CONNECTION ref".into()), ..any() }, vec![1]),
        (DeadFilter { text: Some("needle".into()), ..any() }, vec![3]),
        (DeadFilter { text: Some("Ärger".into()), ..any() }, vec![1]),
        (DeadFilter { error: Some("needle".into()), ..any() }, vec![]),
        (DeadFilter { error: Some("CONNECTION ref".into()), ..any() }, vec![1]),
        (DeadFilter { text: Some("%".into()), ..any() }, vec![]),
        (DeadFilter { fingerprint: Some(fingerprint), ..any() }, vec![2]),
        (DeadFilter { failed_from: Some(NOW + 2), failed_until: Some(NOW + 3), ..any() }, vec![2]),
        (DeadFilter { queue: Some("slow".into()), kind: Some("handler".into()), ..any() }, vec![]),
    ] {
        let expected: Vec<_> = expected.iter().map(|number| taken[number - 1]).collect();
        assert_eq!(ids(&store, &filter).await, expected, "{filter:?}");
    }
}

async fn pages_stay_right_while_letters_come(database: Database) {
    let store = database.open().await;
    let mut expected = store.ingest(&(0..10).map(letter).collect::<Vec<_>>(), NOW).await.unwrap();
    expected.reverse();
    let (mut seen, mut after) = (Vec::new(), None);
    for number in 90.. {
        let page = store.dead_letters(&DeadFilter::default(), after.as_ref(), 3).await.unwrap();
        seen.extend(page.items.iter().map(|letter| letter.id));
        store.ingest(&[letter(number)], NOW).await.unwrap();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, expected);
}

async fn letters_that_died_of_the_same_are_one_group(database: Database) {
    let store = database.open().await;
    let mut letters: Vec<_> = (1..=5).map(letter).collect();
    letters.push(NewDead { kind: "timeout".into(), ..letter(6) });
    let taken = store.ingest(&letters, NOW).await.unwrap();

    let groups = store.groups(&DeadFilter::default(), 10).await.unwrap();
    assert_eq!(groups.len(), 2);
    let largest = &groups[0];
    assert_eq!((largest.count, largest.first_at, largest.last_at, largest.sample), (5, NOW + 1, NOW + 5, taken[4]));
    assert_eq!((largest.job.as_str(), largest.error.as_str()), ("email.send", "no mailbox <n>"));
    assert_eq!((groups[1].count, groups[1].kind.as_str()), (1, "timeout"));
    let timeouts = DeadFilter { kind: Some("timeout".into()), ..DeadFilter::default() };
    assert_eq!(store.groups(&timeouts, 10).await.unwrap(), groups[1..]);
    assert_eq!(store.groups(&DeadFilter::default(), 1).await.unwrap(), groups[..1]);
}

async fn an_edit_keeps_the_payload_it_died_with(database: Database) {
    let store = database.open().await;
    let id = store.ingest(&[letter(1)], NOW).await.unwrap()[0];
    for payload in [b"first".as_slice(), b"second"] {
        assert!(store.edit(id, payload, ANNA).await.unwrap());
        let kept = store.letter(id).await.unwrap().unwrap();
        assert_eq!((kept.payload.as_slice(), kept.original), (payload, Some(letter(1).payload)));
        assert!(kept.about.edited);
    }
    let history = store.history(id).await.unwrap();
    assert_eq!(history.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(), ["edited", "edited"]);
    store.purge(&all(), ANNA).await.unwrap();
    assert!(!store.edit(id, b"third", ANNA).await.unwrap());
    assert!(!store.edit(id + 1, b"third", ANNA).await.unwrap());
}

async fn what_was_purged_can_be_restored(database: Database) {
    let store = database.open().await;
    let taken = store.ingest(&(0..4).map(letter).collect::<Vec<_>>(), NOW).await.unwrap();
    assert_eq!(store.purge(&Selection::Ids(taken[..2].to_vec()), ANNA).await.unwrap(), 2);
    assert_eq!(store.purge(&all(), ANNA).await.unwrap(), 2);
    assert_eq!(dead(&store).await, 0);
    assert_eq!(store.restore(&Selection::Ids(vec![taken[0]]), ANNA).await.unwrap(), 1);
    assert_eq!(store.restore(&all(), ANNA).await.unwrap(), 3);
    assert_eq!(dead(&store).await, 4);
    let history = store.history(taken[0]).await.unwrap();
    let history: Vec<_> = history.iter().map(|entry| (entry.actor.as_str(), entry.action.as_str())).collect();
    assert_eq!(history, [("anna", "purged"), ("anna", "restored")]);
}

async fn exported(store: &Store) -> Vec<String> {
    let any = DeadFilter { states: Vec::new(), ..DeadFilter::default() };
    let letters: Vec<StoredDeadLetter> = store.export(&any).try_collect().await.unwrap();
    letters.iter().map(|letter| serde_json::to_string(letter).unwrap()).collect()
}

async fn an_export_is_imported_byte_for_byte_and_once(database: Database) {
    let store = database.open().await;
    let odd = NewDead { payload: (0..=255).collect(), ..letter(40) };
    let letters: Vec<_> = (0..40).map(letter).chain([odd]).collect();
    let taken = store.ingest(&letters, NOW).await.unwrap();
    store.edit(taken[3], b"edited", ANNA).await.unwrap();
    let lines = exported(&store).await;
    let letters: Vec<StoredDeadLetter> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.iter().map(|letter| letter.about.id).collect::<Vec<_>>(), taken);

    let elsewhere = Database::sqlite();
    let other = elsewhere.open().await;
    assert_eq!(other.import(&letters, ANNA).await.unwrap(), 41);
    assert_eq!(other.import(&letters, ANNA).await.unwrap(), 0);
    assert_eq!(store.import(&letters, ANNA).await.unwrap(), 0);
    let copies: Vec<StoredDeadLetter> =
        exported(&other).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (copy, letter) in copies.iter().zip(&letters) {
        assert_eq!((&copy.payload, &copy.original), (&letter.payload, &letter.original));
        assert_eq!((&copy.properties, &copy.about.fingerprint), (&letter.properties, &letter.about.fingerprint));
        assert_eq!((copy.about.failed_at, copy.about.edited), (letter.about.failed_at, letter.about.edited));
    }
    // A redelivered letter is recognised by its import too.
    assert!(other.ingest(&[letter(3)], NOW).await.unwrap().is_empty());
}

async fn an_import_takes_back_what_was_purged(database: Database) {
    let store = database.open().await;
    store.ingest(&[letter(1), letter(2)], NOW).await.unwrap();
    let letters: Vec<StoredDeadLetter> = store.export(&DeadFilter::default()).try_collect().await.unwrap();
    store.purge(&all(), ANNA).await.unwrap();
    assert_eq!(store.import(&letters, ANNA).await.unwrap(), 2);
    assert_eq!(dead(&store).await, 2);
}
