//! Events belong to jobs by origin: an id is not proof, because any publisher may use it.

use leveret::{
    JobId,
    status_update::{StatusUpdate, Transition},
    time::at_unix_ms,
    unique::{Claim, Claimed, UniqueKeys},
};
use leveret_store::{JobFilter, JobState, Store};

use crate::{
    database::{Database, NOW, OpenStore},
    status::event,
};

leveret_harness::on_both_databases! {
    a_publisher_that_only_knows_an_id_changes_nothing_of_its_job,
    two_jobs_of_one_id_have_a_row_each,
    what_is_published_under_an_id_again_has_a_row_beside_the_first_and_frees_its_own_key,
    steps_of_older_workers_which_publish_no_origin_are_their_jobs,
}

fn queued() -> Transition {
    Transition::Queued { due: None, expires: None }
}

fn dead() -> Transition {
    Transition::Dead { kind: "decode".into(), error: "not a job".into() }
}

fn succeeded() -> Transition {
    Transition::Succeeded { result: None, too_large: None }
}

/// The events of a message that another publisher sent under a job's id, with counters of its own.
fn forged(id: &str, hop: u32, transition: Transition) -> StatusUpdate {
    StatusUpdate { origin: Some("forged".into()), hop, ..event(id, 0, 1_000, transition) }
}

async fn state(store: &Store, id: &str) -> JobState {
    store.job(id).await.unwrap().unwrap().state
}

async fn steps(store: &Store, id: &str) -> Vec<String> {
    store.timeline(id).await.unwrap().into_iter().map(|entry| entry.step).collect()
}

async fn a_publisher_that_only_knows_an_id_changes_nothing_of_its_job(database: Database) {
    let store = database.open().await;
    let (a, b) = (JobId::from("a"), JobId::from("b"));
    let (now, until) = (at_unix_ms(NOW), at_unix_ms(NOW + 1));
    let claim = |job_id, origin| Claim { key: "email.send/7", job_id, origin, now, until, instead_of: None };
    store.take(claim(&a, "origin-of-a")).await.unwrap();
    let of_the_queue =
        |hop, step| StatusUpdate { queue: "evil".into(), job: "evil.job".into(), ..forged("a", hop, step) };
    let of_the_job = |hop, step| StatusUpdate { queue: "evil".into(), ..forged("a", hop, step) };
    let forgeries = |hop| {
        [Transition::Received, queued(), Transition::CancelRequested, succeeded(), Transition::Cancelled, dead()]
            .into_iter()
            .flat_map(move |step| {
                [forged("a", hop, step.clone()), of_the_queue(hop, step.clone()), of_the_job(hop, step)]
            })
    };
    let own =
        [event("a", 0, 0, queued()), event("a", 0, 10, Transition::Started), event("a", 1, 30, Transition::Received)];
    for (own, expected) in own.into_iter().zip([JobState::Queued, JobState::Started, JobState::Received]) {
        store.record(&[own]).await.unwrap();
        for hop in [0, 1, u32::MAX] {
            for forgery in forgeries(hop) {
                store.record(&[forgery]).await.unwrap();
            }
            store.record(&forgeries(hop).collect::<Vec<_>>()).await.unwrap();
        }
        let job = store.job("a").await.unwrap().unwrap();
        assert_eq!((job.state, job.queue.as_str(), job.error), (expected, "email", None));
        assert_eq!(store.take(claim(&b, "other")).await.unwrap(), Claimed::By("a".into()), "its key is its own");
    }
    store.record(&[event("a", 1, 40, succeeded())]).await.unwrap();
    store.record(&forgeries(u32::MAX).collect::<Vec<_>>()).await.unwrap();
    assert_eq!((state(&store, "a").await, steps(&store, "a").await.len()), (JobState::Succeeded, 4));
    assert_eq!(store.take(claim(&b, "other")).await.unwrap(), Claimed::Taken);
}

async fn two_jobs_of_one_id_have_a_row_each(database: Database) {
    let store = database.open().await;
    let of = |job: &str, at, step| StatusUpdate {
        job: job.into(),
        queue: format!("{job}-queue"),
        origin: Some(job.into()),
        ..event("order-17", 0, at, step)
    };
    // In one batch, and in several.
    store.record(&[of("charge", 0, queued()), of("mail", 1, queued()), of("charge", 5, succeeded())]).await.unwrap();
    store.record(&[of("mail", 6, dead())]).await.unwrap();
    assert_eq!(state(&store, "order-17").await, JobState::Succeeded);
    let mail = store.job("order-17@mail-queue:mail").await.unwrap().unwrap();
    assert_eq!((mail.state, mail.job_id().as_str(), mail.job.as_str()), (JobState::Dead, "order-17", "mail"));
    assert_eq!(steps(&store, &mail.id).await, ["queued", "dead"]);
    assert_eq!(store.jobs(&JobFilter::default(), None, 10).await.unwrap().items.len(), 2);
}

async fn what_is_published_under_an_id_again_has_a_row_beside_the_first_and_frees_its_own_key(database: Database) {
    let store = database.open().await;
    let of = |origin: &str, at, step| StatusUpdate { origin: Some(origin.into()), ..event("nightly", 0, at, step) };
    let (nightly, other_id) = (JobId::from("nightly"), JobId::from("other"));
    let (now, until) = (at_unix_ms(NOW), at_unix_ms(NOW + 1));
    let claim = |origin| Claim { key: "a/7", job_id: &nightly, origin, now, until, instead_of: None };
    let again = "nightly@email:email.send";
    store.record(&[event("nightly", 0, 0, queued()), event("nightly", 7, 50, dead())]).await.unwrap();
    for (origin, at) in [("second", 100), ("third", 200)] {
        assert_eq!(store.take(claim(origin)).await.unwrap(), Claimed::Taken);
        store.record(&[of(origin, at, Transition::Received), of(origin, at + 1, Transition::Started)]).await.unwrap();
        store.record(&[of("beside", at + 2, dead())]).await.unwrap();
        let job = store.job(again).await.unwrap().unwrap();
        assert_eq!((job.state, job.error, job.created_at), (JobState::Started, None, NOW + at), "{origin}");
        assert_eq!(steps(&store, again).await, ["received", "started"]);
        store.record(&[of(origin, at + 3, succeeded())]).await.unwrap();
        let other = Claim { job_id: &other_id, ..claim("other") };
        assert_eq!(store.take(other).await.unwrap(), Claimed::Taken, "the key of {origin} is free");
        store.free("a/7", &other_id).await.unwrap();
    }
    // The events of the second job come late.
    store.record(&[of("second", 103, succeeded())]).await.unwrap();
    assert_eq!(steps(&store, again).await, ["received", "started", "succeeded"]);
    let first = store.job("nightly").await.unwrap().unwrap();
    assert_eq!((first.state, first.hop, steps(&store, "nightly").await.len()), (JobState::Dead, 7, 2));
}

async fn steps_of_older_workers_which_publish_no_origin_are_their_jobs(database: Database) {
    let store = database.open().await;
    let old = |step| StatusUpdate { origin: None, ..event("a", 0, 5, step) };
    store.record(&[event("a", 0, 0, queued()), old(Transition::Started)]).await.unwrap();
    assert_eq!(state(&store, "a").await, JobState::Started);
    store.record(&[StatusUpdate { queue: "evil".into(), ..old(dead()) }]).await.unwrap();
    assert_eq!(state(&store, "a").await, JobState::Started);
    store.record(&[old(succeeded())]).await.unwrap();
    assert_eq!(state(&store, "a").await, JobState::Succeeded);
}
