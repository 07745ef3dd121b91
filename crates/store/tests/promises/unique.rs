//! One job at a time holds a unique key.

use leveret::{
    JobId,
    status_update::{StatusUpdate, Transition},
    time::at_unix_ms,
    unique::{Claim, Claimed, UniqueKeys},
};
use leveret_store::Retention;

use crate::{
    database::{Database, NOW, OpenStore},
    status::event,
};

leveret_harness::on_both_databases! {
    a_key_is_one_jobs_until_its_time_is_over,
    of_many_at_once_one_has_the_key,
    a_key_is_free_when_its_job_has_ended,
    a_key_is_free_when_its_job_has_ended_beside_two_others_of_its_id,
    a_key_is_free_when_its_job_is_cancelled_wherever_that_is,
    a_key_changes_hands_only_from_the_job_that_was_named,
    only_its_own_job_keeps_or_frees_a_key,
}

fn claim(job_id: &str, now: u64, instead_of: Option<&str>) -> Claim<'static> {
    // A claim borrows its ids, and few are made here.
    let leaked = |id: &str| -> &'static JobId { Box::leak(Box::new(id.into())) };
    let (now, until) = (at_unix_ms(now), at_unix_ms(now + 1000));
    Claim { key: "sync/7", job_id: leaked(job_id), origin: "", now, until, instead_of: instead_of.map(leaked) }
}

fn by(job_id: &str) -> Claimed {
    Claimed::By(job_id.into())
}

async fn a_key_is_one_jobs_until_its_time_is_over(database: Database) {
    let store = database.open().await;
    assert_eq!(store.take(claim("a", NOW, None)).await.unwrap(), Claimed::Taken);
    assert_eq!(store.take(claim("a", NOW + 1, None)).await.unwrap(), Claimed::Taken, "its own");
    assert_eq!(store.take(claim("b", NOW + 1000, None)).await.unwrap(), by("a"));
    store.keep("sync/7", &"a".into(), at_unix_ms(NOW + 5000)).await.unwrap();
    assert_eq!(store.take(claim("b", NOW + 4999, None)).await.unwrap(), by("a"));
    store.prune(NOW + 4999, &Retention::default()).await.unwrap();
    assert_eq!(store.take(claim("b", NOW + 5000, None)).await.unwrap(), Claimed::Taken);
}

async fn of_many_at_once_one_has_the_key(database: Database) {
    let store = database.open().await;
    let claims = (0..16).map(|number: u32| {
        let store = store.clone();
        tokio::spawn(async move { store.take(claim(&number.to_string(), NOW, None)).await.unwrap() })
    });
    let mut taken = 0;
    for claim in claims.collect::<Vec<_>>() {
        taken += u32::from(claim.await.unwrap() == Claimed::Taken);
    }
    assert_eq!(taken, 1);
}

async fn a_key_is_free_when_its_job_has_ended(database: Database) {
    let store = database.open().await;
    for end in [Transition::Succeeded { result: None, too_large: None }, Transition::Cancelled, Transition::Duplicate] {
        let id = end.name();
        let origin = format!("origin-of-{id}");
        let claim_of_it = Claim { origin: &origin, ..claim(id, NOW, None) };
        assert_eq!(store.take(claim_of_it).await.unwrap(), Claimed::Taken);
        store.record(&[event(id, 0, 1, Transition::Started)]).await.unwrap();
        assert_eq!(store.take(claim("next", NOW, None)).await.unwrap(), by(id), "it runs");
        store.record(&[event(id, 0, 2, end)]).await.unwrap();
    }
    assert_eq!(store.take(claim("next", NOW, None)).await.unwrap(), Claimed::Taken);
}

async fn a_key_is_free_when_its_job_has_ended_beside_two_others_of_its_id(database: Database) {
    let store = database.open().await;
    let of = |origin: &str, step| StatusUpdate { origin: Some(origin.into()), ..event("order-7", 0, 1, step) };
    // The first one has the row of the plain id, the second one that of the full id. Both keep running.
    store.record(&[of("first", Transition::Started), of("second", Transition::Started)]).await.unwrap();
    let third = Claim { origin: "third", ..claim("order-7", NOW, None) };
    assert_eq!(store.take(third).await.unwrap(), Claimed::Taken);
    store.record(&[of("third", Transition::Started), of("second", Transition::Cancelled)]).await.unwrap();
    assert_eq!(store.take(claim("next", NOW, None)).await.unwrap(), by("order-7"), "it runs");
    let second = Claim { origin: "second", key: "sync/8", ..claim("order-7", NOW, None) };
    assert_eq!(store.take(second).await.unwrap(), Claimed::Taken);
    store.record(&[of("third", Transition::Succeeded { result: None, too_large: None })]).await.unwrap();
    assert_eq!(store.take(claim("next", NOW, None)).await.unwrap(), Claimed::Taken);
    let other = Claim { key: "sync/8", ..claim("next", NOW, None) };
    assert_eq!(store.take(other).await.unwrap(), by("order-7"), "it is another's");
}

async fn a_key_is_free_when_its_job_is_cancelled_wherever_that_is(database: Database) {
    let store = database.open().await;
    let due = Transition::Queued { due: Some(at_unix_ms(NOW + 500)), expires: None };
    let retrying = Transition::Retrying { kind: "failed".into(), error: "down".into(), due: at_unix_ms(NOW + 500) };
    for step in [due, retrying, Transition::Started] {
        let id = step.name();
        let origin = format!("origin-of-{id}");
        let claim_of_it = Claim { origin: &origin, ..claim(id, NOW, None) };
        assert_eq!(store.take(claim_of_it).await.unwrap(), Claimed::Taken);
        store.record(&[event(id, 0, 1, step)]).await.unwrap();
        assert_eq!(store.take(claim("next", NOW, None)).await.unwrap(), by(id));
        store.record(&[event(id, 0, 2, Transition::CancelRequested)]).await.unwrap();
    }
    assert_eq!(store.take(claim("next", NOW, None)).await.unwrap(), Claimed::Taken);
    // Later events of the other jobs do not free it.
    store
        .record(&[event("started", 0, 3, Transition::CancelRequested), event("queued", 0, 3, Transition::Cancelled)])
        .await
        .unwrap();
    assert_eq!(store.take(claim("other", NOW, None)).await.unwrap(), by("next"));
}

async fn a_key_changes_hands_only_from_the_job_that_was_named(database: Database) {
    let store = database.open().await;
    store.take(claim("a", NOW, None)).await.unwrap();
    assert_eq!(store.take(claim("c", NOW, Some("b"))).await.unwrap(), by("a"));
    assert_eq!(store.take(claim("c", NOW, Some("a"))).await.unwrap(), Claimed::Taken);
    assert_eq!(store.take(claim("d", NOW, Some("a"))).await.unwrap(), by("c"));
}

async fn only_its_own_job_keeps_or_frees_a_key(database: Database) {
    let store = database.open().await;
    store.take(claim("a", NOW, None)).await.unwrap();
    store.keep("sync/7", &"b".into(), at_unix_ms(NOW)).await.unwrap();
    store.free("sync/7", &"b".into()).await.unwrap();
    assert_eq!(store.take(claim("b", NOW, None)).await.unwrap(), by("a"));
    store.free("sync/7", &"a".into()).await.unwrap();
    assert_eq!(store.take(claim("b", NOW, None)).await.unwrap(), Claimed::Taken);
}
