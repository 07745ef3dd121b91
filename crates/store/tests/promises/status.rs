//! The state of tracked jobs, in whatever order their events come.

use std::collections::BTreeMap;

use leveret::{
    status_update::{StatusUpdate, Transition},
    time::at_unix_ms,
};
use leveret_store::{JobFilter, JobState, StatusChange, Store, TrackedJob};
use serde_json::json;

use crate::database::{Database, NOW, OpenStore};

leveret_harness::on_both_databases! {
    shuffled_doubled_and_split_events_end_in_the_same_job,
    a_row_shows_what_its_events_said,
    only_changed_jobs_are_returned,
    a_cancel_stops_what_waits_and_never_hides_what_runs_or_ended,
    a_gap_makes_unfinished_jobs_stale_until_their_next_event,
    pages_stay_right_while_jobs_are_added,
    a_filter_finds_what_fits_all_of_it,
    counts_are_by_state,
    any_text_at_all_can_be_stored,
    ids_that_the_database_cannot_distinguish_are_one_job,
    an_event_that_cannot_be_held_is_refused_for_itself,
    a_batch_of_any_size_is_taken,
    the_time_of_the_last_news_never_goes_back,
    of_a_job_that_comes_back_again_and_again_the_first_and_the_last_steps_are_kept,
}

pub(crate) fn event(id: &str, hop: u32, at: u64, transition: Transition) -> StatusUpdate {
    StatusUpdate {
        id: id.into(),
        job: "email.send".into(),
        queue: "email".into(),
        origin: Some(format!("origin-of-{id}")),
        label: None,
        priority: None,
        attempt: hop + 1,
        hop,
        enqueued_at: None,
        at: at_unix_ms(NOW + at),
        worker: Some(format!("host:{hop}")),
        transition,
    }
}

fn queued() -> Transition {
    Transition::Queued { due: None, expires: None }
}

fn retrying(due: u64) -> Transition {
    Transition::Retrying { kind: "handler".into(), error: "no".into(), due: at_unix_ms(NOW + due) }
}

fn succeeded() -> Transition {
    Transition::Succeeded { result: Some(json!({"pages": 3})), too_large: None }
}

fn dead() -> Transition {
    Transition::Dead { kind: "handler".into(), error: "failed".into() }
}

async fn state(store: &Store, id: &str) -> JobState {
    store.job(id).await.unwrap().unwrap().state
}

/// The events of a job in order, with deaths of workers, retries, snoozes, cancellations and replays.
fn life(id: &str, random: &mut fastrand::Rng) -> Vec<StatusUpdate> {
    let mut events = vec![event(id, 0, 0, queued())];
    let (mut at, mut hop) = (0, 0);
    loop {
        for _ in 0..random.usize(1..3) {
            events.push(event(id, hop, at + 1, Transition::Received));
            events.push(event(id, hop, at + 2, Transition::Started));
            for number in 0..random.u64(0..3) {
                let step = Transition::Progress { fraction: 0.25 * number as f64, note: Some(number.to_string()) };
                events.push(event(id, hop, at + 2 + number, step));
            }
            at += 10;
        }
        if random.u8(0..4) == 0 {
            let by_the_server = StatusUpdate { worker: None, ..event(id, hop, at, Transition::CancelRequested) };
            events.push(by_the_server);
        }
        at += 1;
        let step = match random.u8(0..8) {
            0 => succeeded(),
            1 => Transition::Cancelled,
            2..4 => Transition::Snoozed { due: at_unix_ms(NOW + at + 100) },
            4 => dead(),
            _ => retrying(at + 50),
        };
        let (terminal, replayed) = (step.is_terminal(), matches!(step, Transition::Dead { .. }) && random.bool());
        events.push(event(id, hop, at, step));
        if random.u8(0..8) == 0 || terminal && !replayed {
            return events;
        }
        (hop, at) = (hop + 1, at + 100);
    }
}

async fn shuffled_doubled_and_split_events_end_in_the_same_job(database: Database) {
    let store = database.open().await;
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (ordered, shuffled) = (format!("ordered-{seed}"), format!("shuffled-{seed}"));
        let events = life(&ordered, &mut random);
        store.record(&events).await.unwrap();
        let mut mixed: Vec<_> =
            events.iter().map(|event| StatusUpdate { id: (&shuffled).into(), ..event.clone() }).collect();
        mixed.extend_from_within(..mixed.len() / 2);
        random.shuffle(&mut mixed);
        for batch in mixed.chunks(random.usize(1..8)) {
            store.record(batch).await.unwrap();
        }

        let (expected, found) = (store.job(&ordered).await.unwrap(), store.job(&shuffled).await.unwrap());
        let renamed = |mut job: TrackedJob| {
            job.id.clone_from(&shuffled);
            job
        };
        assert_eq!(found, expected.map(renamed), "seed {seed}: {events:#?}");
        assert_eq!(store.timeline(&shuffled).await.unwrap(), store.timeline(&ordered).await.unwrap(), "seed {seed}");
    }
}

async fn a_row_shows_what_its_events_said(database: Database) {
    let store = database.open().await;
    let submitted = StatusUpdate {
        label: Some("Important Task".into()),
        priority: Some(7),
        enqueued_at: Some(at_unix_ms(NOW - 5)),
        worker: None,
        ..event("a", 0, 0, Transition::Queued { due: Some(at_unix_ms(NOW + 9)), expires: Some(at_unix_ms(NOW + 99)) })
    };
    store.record(&[submitted]).await.unwrap();
    let job = store.job("a").await.unwrap().unwrap();
    assert_eq!((job.label.as_deref(), job.priority, job.created_at), (Some("Important Task"), Some(7), NOW - 5));
    assert_eq!((job.state, job.due_at, job.expires_at), (JobState::Queued, Some(NOW + 9), Some(NOW + 99)));

    let progress = Transition::Progress { fraction: 0.5, note: Some("half".into()) };
    store.record(&[event("a", 0, 10, Transition::Started), event("a", 0, 11, progress)]).await.unwrap();
    let job = store.job("a").await.unwrap().unwrap();
    assert_eq!((job.state, job.progress, job.note.as_deref()), (JobState::Started, Some(0.5), Some("half")));
    assert_eq!((job.started_at, job.worker.as_deref(), job.due_at), (Some(NOW + 10), Some("host:0"), None));

    store.record(&[event("a", 0, 20, retrying(30))]).await.unwrap();
    let job = store.job("a").await.unwrap().unwrap();
    assert_eq!((job.error_kind.as_deref(), job.error.as_deref()), (Some("handler"), Some("no")));
    assert_eq!((job.due_at, job.finished_at, job.progress), (Some(NOW + 30), None, None));

    store.record(&[event("a", 1, 40, succeeded())]).await.unwrap();
    let job = store.job("a").await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.hop), (JobState::Succeeded, 2, 1));
    assert_eq!((job.result, job.error, job.finished_at), (Some(json!({"pages": 3})), None, Some(NOW + 40)));
    assert_eq!((job.label.as_deref(), job.expires_at), (Some("Important Task"), Some(NOW + 99)));

    let timeline = store.timeline("a").await.unwrap();
    let steps: Vec<_> = timeline.iter().map(|entry| (entry.step.as_str(), entry.attempt)).collect();
    assert_eq!(steps, [("queued", 1), ("started", 1), ("retrying", 1), ("succeeded", 2)]);
    assert_eq!(timeline[2].detail, Some(json!({"kind": "handler", "error": "no", "due": NOW + 30})));
    assert_eq!((timeline[1].at, timeline[1].detail.clone(), timeline[3].detail.clone()), (NOW + 10, None, None));
    assert!(store.job("b").await.unwrap().is_none());
}

async fn only_changed_jobs_are_returned(database: Database) {
    let store = database.open().await;
    let events = [event("a", 0, 0, queued()), event("b", 0, 0, queued()), event("a", 0, 5, Transition::Started)];
    let moved = store.record(&events).await.unwrap();
    let expected =
        [("a", JobState::Started), ("b", JobState::Queued)].map(|(id, state)| StatusChange { id: id.into(), state });
    assert_eq!(moved, expected);
    assert_eq!(store.record(&events).await.unwrap(), []);
    assert_eq!(store.record(&[event("a", 0, 3, Transition::Received)]).await.unwrap(), []);
    assert_eq!(store.record(&[]).await.unwrap(), []);
    let mut found = store.jobs_by_ids(&["b", "unknown", "a"]).await.unwrap();
    found.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(found.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

async fn a_cancel_stops_what_waits_and_never_hides_what_runs_or_ended(database: Database) {
    let store = database.open().await;
    let cancel = Transition::CancelRequested;
    for (number, (events, expected, asked)) in [
        (vec![event("", 0, 0, queued()), event("", 0, 5, cancel.clone())], JobState::CancelRequested, true),
        (vec![event("", 0, 0, Transition::Received), event("", 0, 5, cancel.clone())], JobState::CancelRequested, true),
        (vec![event("", 0, 0, retrying(9)), event("", 0, 5, cancel.clone())], JobState::CancelRequested, true),
        (
            vec![event("", 0, 0, Transition::Snoozed { due: at_unix_ms(9) }), event("", 0, 5, cancel.clone())],
            JobState::CancelRequested,
            true,
        ),
        (vec![event("", 0, 0, Transition::Started), event("", 0, 5, cancel.clone())], JobState::Started, true),
        (
            vec![event("", 0, 0, Transition::Started), event("", 0, 5, cancel.clone()), event("", 0, 6, succeeded())],
            JobState::Succeeded,
            true,
        ),
        (vec![event("", 0, 5, cancel.clone()), event("", 0, 6, Transition::Cancelled)], JobState::Cancelled, true),
        (vec![event("", 2, 0, Transition::Received), event("", 1, 5, cancel.clone())], JobState::Received, false),
        (vec![event("", 0, 5, cancel), event("", 1, 9, Transition::Received)], JobState::Received, false),
    ]
    .into_iter()
    .enumerate()
    {
        for backwards in [false, true] {
            let id = format!("{number}-{backwards}");
            let mut events = events.clone();
            events.iter_mut().for_each(|event| event.id = (&id).into());
            if backwards {
                events.reverse();
            }
            for event in events {
                store.record(&[event]).await.unwrap();
            }
            let job = store.job(&id).await.unwrap().unwrap();
            assert_eq!((job.state, job.cancel_requested_at), (expected, asked.then_some(NOW + 5)), "{id}");
        }
    }
}

async fn a_gap_makes_unfinished_jobs_stale_until_their_next_event(database: Database) {
    let store = database.open().await;
    let events = [
        event("running", 0, 0, Transition::Started),
        event("done", 0, 0, succeeded()),
        event("delayed", 0, 0, Transition::Queued { due: Some(at_unix_ms(NOW + 500)), expires: None }),
        event("fresh", 0, 200, Transition::Started),
    ];
    store.record(&events).await.unwrap();
    assert_eq!(store.note_gap(NOW + 100).await.unwrap(), 1);
    assert_eq!(store.note_gap(NOW + 100).await.unwrap(), 0);
    let stale = JobFilter { stale: Some(true), ..JobFilter::default() };
    let page = store.jobs(&stale, None, 10).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["running"]);
    assert_eq!(state(&store, "running").await, JobState::Started);

    let moved = store.record(&[event("running", 0, 0, Transition::Started)]).await.unwrap();
    assert_eq!(moved.len(), 1);
    assert!(!store.job("running").await.unwrap().unwrap().stale);
}

async fn pages_stay_right_while_jobs_are_added(database: Database) {
    let store = database.open().await;
    // Three in each millisecond, so that pages end between jobs of the same time.
    let jobs: Vec<_> = (0..30).map(|number| event(&format!("job-{number:02}"), 0, number / 3, queued())).collect();
    store.record(&jobs).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.jobs(&JobFilter::default(), after.as_ref(), 4).await.unwrap();
        assert!(page.items.len() == 4 || page.next.is_none());
        seen.extend(page.items.into_iter().map(|job| job.id));
        store.record(&[event(&format!("new-{}", seen.len()), 0, 1000, queued())]).await.unwrap();
        after = page.next.map(|cursor| cursor.to_string().parse().unwrap());
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = jobs.iter().rev().map(|event| event.id.to_string()).collect();
    assert_eq!(seen, expected);
}

async fn a_filter_finds_what_fits_all_of_it(database: Database) {
    let store = database.open().await;
    let events = [
        StatusUpdate { label: Some("Weekly Report: Übersicht".into()), ..event("a", 0, 0, queued()) },
        StatusUpdate { queue: "slow".into(), ..event("b", 0, 10, Transition::Started) },
        StatusUpdate { job: "report.make".into(), ..event("c", 0, 20, dead()) },
    ];
    store.record(&events).await.unwrap();
    let all = JobFilter::default;
    for (filter, expected) in [
        (all(), "cba"),
        (JobFilter { states: vec![JobState::Started, JobState::Dead], ..all() }, "cb"),
        (JobFilter { job: Some("report.make".into()), ..all() }, "c"),
        (JobFilter { queue: Some("slow".into()), ..all() }, "b"),
        (JobFilter { label: Some("weekly rep".into()), ..all() }, "a"),
        (JobFilter { label: Some("Übersicht".into()), ..all() }, "a"),
        (JobFilter { label: Some("%".into()), ..all() }, ""),
        (JobFilter { created_from: Some(NOW + 10), ..all() }, "cb"),
        (JobFilter { created_until: Some(NOW + 10), ..all() }, "a"),
        (JobFilter { stale: Some(false), ..all() }, "cba"),
        (JobFilter { states: vec![JobState::Started], queue: Some("email".into()), ..all() }, ""),
        (JobFilter { queue: Some("slow' OR '1'='1".into()), ..all() }, ""),
    ] {
        let page = store.jobs(&filter, None, 10).await.unwrap();
        assert_eq!(page.items.iter().map(|job| job.id.as_str()).collect::<String>(), expected, "{filter:?}");
    }
}

async fn counts_are_by_state(database: Database) {
    let store = database.open().await;
    let events = [event("a", 0, 0, dead()), event("b", 0, 0, dead()), event("c", 0, 0, Transition::Started)];
    store.record(&events).await.unwrap();
    assert_eq!(store.counts().await.unwrap(), BTreeMap::from([(JobState::Started, 1), (JobState::Dead, 2)]));
}

async fn any_text_at_all_can_be_stored(database: Database) {
    let store = database.open().await;
    let odd = "\0 '\"\\ ünï \u{1f407} \u{ffff} $1 ?";
    let step = Transition::Dead { kind: odd.into(), error: odd.into() };
    let strange = StatusUpdate { label: Some(odd.into()), at: at_unix_ms(u64::MAX), ..event(odd, 0, 0, step) };
    store.record(&[strange]).await.unwrap();
    let shown = odd.replace('\0', "\u{fffd}");
    let job = store.job(&shown).await.unwrap().unwrap();
    assert_eq!((job.error.as_deref(), job.label.as_deref()), (Some(shown.as_str()), Some(shown.as_str())));
    let result = Transition::Succeeded { result: Some(json!(odd)), too_large: None };
    store.record(&[event("a", 0, 0, result)]).await.unwrap();
    assert_eq!(store.job("a").await.unwrap().unwrap().result, Some(json!(odd)));
}

async fn ids_that_the_database_cannot_distinguish_are_one_job(database: Database) {
    let store = database.open().await;
    let ids = ["a\0", "a\u{fffd}", "b\0", "b\u{fffd}", "c", "d"];
    let moved = store.record(&ids.map(|id| event(id, 0, 5, Transition::Started))).await.unwrap();
    assert_eq!(moved.len(), 4);
    // The job has its own row: old events change nothing.
    store.record(&[event("a\0", 0, 1, queued())]).await.unwrap();
    assert_eq!(state(&store, "a\u{fffd}").await, JobState::Started);
    assert_eq!(store.timeline("a\0").await.unwrap().len(), 2);
}

async fn an_event_that_cannot_be_held_is_refused_for_itself(database: Database) {
    let store = database.open().await;
    // Random, so that compression does not shorten it.
    let mut random = fastrand::Rng::with_seed(7);
    let long: String = std::iter::repeat_with(|| random.alphanumeric()).take(9000).collect();
    // SQLite accepts it.
    if let Err(error) = store.record(&[event(&long, 0, 1, queued())]).await {
        assert!(error.is_refusal(), "{error:?}");
    }
}

async fn a_batch_of_any_size_is_taken(database: Database) {
    let store = database.open().await;
    let events: Vec<_> = (0..1000).map(|number| event(&number.to_string(), 0, number, queued())).collect();
    assert_eq!(store.record(&events).await.unwrap().len(), 1000);
    assert_eq!(store.counts().await.unwrap()[&JobState::Queued], 1000);
}

async fn the_time_of_the_last_news_never_goes_back(database: Database) {
    let store = database.open().await;
    assert_eq!(store.heard_at().await.unwrap(), None);
    for now in [NOW, NOW + 5, NOW + 2] {
        store.heard(now).await.unwrap();
    }
    assert_eq!(store.heard_at().await.unwrap(), Some(NOW + 5));
}

async fn of_a_job_that_comes_back_again_and_again_the_first_and_the_last_steps_are_kept(database: Database) {
    let store = database.open().await;
    store.record(&[event("other", 7, 0, Transition::Received)]).await.unwrap();
    for hop in 0..400u32 {
        let at = u64::from(hop) * 10;
        let due = at_unix_ms(NOW + at + 10);
        let steps = [Transition::Received, Transition::Started, Transition::Snoozed { due }];
        store.record(&steps.map(|step| event("a", hop, at, step))).await.unwrap();
    }
    let kept = store.timeline("a").await.unwrap();
    let mut hops: Vec<_> = kept.iter().map(|entry| entry.hop).collect();
    hops.dedup();
    assert_eq!(hops, (0..50).chain(350..400).collect::<Vec<_>>());
    assert_eq!((kept.len(), kept.last().unwrap().step.as_str()), (300, "snoozed"));
    assert_eq!(store.timeline("other").await.unwrap().len(), 1);

    let forged: Vec<_> =
        (0..1500).map(|attempt| StatusUpdate { attempt, ..event("b", 0, 0, Transition::Received) }).collect();
    store.record(&forged).await.unwrap();
    assert_eq!(store.timeline("b").await.unwrap().len(), 1000);
}
