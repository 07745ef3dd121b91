//! Enqueued jobs and their options.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use leveret::{Job, JobId, NewJob, unique::InMemory};
use leveret_harness::{Database, eventually_eq, lapin::types::AMQPValue};
use leveret_sql::{Error, Outbox, SetAsideSelection};
use serde::{Deserialize, Serialize};

use super::stage::{LONG, Pool, Stage, now_ms, run};
use crate::in_transaction;

leveret_harness::on_both_databases! {
    a_job_is_published_if_and_only_if_its_transaction_commits,
    the_options_of_a_job_reach_the_wire,
    a_job_goes_into_the_lane_of_its_priority,
    a_delay_counts_from_the_enqueue,
    a_unique_job_takes_its_key_from_the_store_of_the_relay,
    what_could_never_be_published_is_refused_and_the_transaction_goes_on,
    many_are_enqueued_at_once_and_their_ids_returned_in_order,
    many_may_migrate_at_once_and_tables_of_a_newer_leveret_are_left_alone,
}

#[derive(Serialize, Deserialize)]
struct Ship {
    order: u32,
}

impl Job for Ship {
    const NAME: &'static str = "order.ship";
    const QUEUE: &'static str = "orders";
}

async fn a_job_is_published_if_and_only_if_its_transaction_commits(database: Database) {
    let stage = Stage::new(database).await;
    let relay = run(stage.relay());
    let before = stage.pool.enqueue(stage.entry("first")).await;
    match &stage.pool {
        Pool::Postgres(pool) => {
            let mut tx = pool.begin().await.unwrap();
            Outbox::enqueue(&mut tx, stage.entry("never")).await.unwrap();
            tx.rollback().await.unwrap();
        }
        Pool::Sqlite(pool) => {
            let mut tx = pool.begin().await.unwrap();
            Outbox::enqueue(&mut tx, stage.entry("never")).await.unwrap();
            tx.rollback().await.unwrap();
        }
    }
    let job = NewJob::of(&Ship { order: 7 }).queue(&stage.queue);
    let after = stage.pool.enqueue(job).await;
    let expected = [(before.to_string(), "first".to_owned()), (after.to_string(), r#"{"order":7}"#.to_owned())];
    assert_eq!(BTreeSet::from_iter(stage.take(2).await), BTreeSet::from(expected));
    stage.drained().await;
    relay.stop().await.unwrap();
    assert_eq!(stage.depth().await, 0);
}

async fn the_options_of_a_job_reach_the_wire(database: Database) {
    let stage = Stage::new(database).await;
    let enqueued = now_ms();
    let entry = stage.entry("{}").id("order-17").priority(5).label("Ada's order").track().correlation_id("cart-3");
    let entry = entry.header("tenant", "acme").header("copies", 2).header("gift", true);
    stage.pool.enqueue(entry.expires(Duration::from_secs(3600)).at(SystemTime::UNIX_EPOCH)).await;
    let relay = run(stage.relay());
    let message = stage.next().await;
    relay.stop().await.unwrap();
    let properties = &message.delivery.properties;
    let text = |value: &Option<leveret_harness::lapin::types::ShortString>| value.as_ref().unwrap().to_string();
    assert_eq!(text(properties.message_id()), "order-17");
    assert_eq!(text(properties.kind()), "test.job");
    assert_eq!(text(properties.correlation_id()), "cart-3");
    assert_eq!((*properties.priority(), *properties.delivery_mode()), (Some(5), Some(2)));
    let headers = properties.headers().as_ref().unwrap().inner();
    let long = |text: &str| AMQPValue::LongString(text.as_bytes().to_vec().into());
    assert_eq!(headers["tenant"], long("acme"));
    assert_eq!(headers["copies"], AMQPValue::LongLongInt(2));
    assert_eq!(headers["gift"], AMQPValue::Boolean(true));
    assert_eq!(headers["leveret-label"], long("Ada's order"));
    assert_eq!(headers["leveret-track"], AMQPValue::Boolean(true));
    let time = |name: &str| match headers[name] {
        AMQPValue::LongLongInt(ms) => u64::try_from(ms).unwrap(),
        ref other => panic!("{other:?}"),
    };
    assert!((enqueued..enqueued + 5_000).contains(&time("leveret-enqueued-at")));
    assert!(time("leveret-expires-at").abs_diff(enqueued + 3_600_000) < 5_000);
    assert!(!headers.contains_key("leveret-not-before"));
}

async fn a_job_goes_into_the_lane_of_its_priority(database: Database) {
    let stage = Stage::new(database).await;
    let [high, low] = ["high", "low"].map(|lane| format!("{}.{lane}", stage.queue));
    for lane in [&high, &low] {
        stage.declare(lane).await;
    }
    for (priority, count) in [(9, 3), (4, 2), (0, 1)] {
        for _ in 0..count {
            stage.pool.enqueue(stage.entry("{}").lanes().priority(priority)).await;
        }
    }
    // A named queue without lanes.
    stage.pool.enqueue(stage.entry("{}").queue(&low).priority(9)).await;
    let relay = run(stage.relay());
    stage.drained().await;
    relay.stop().await.unwrap();
    let depth = async |queue: &str| stage.raw.depth(queue).await.unwrap().unwrap();
    assert_eq!((depth(&high).await, stage.depth().await, depth(&low).await), (3, 2, 2));
}

async fn a_delay_counts_from_the_enqueue(database: Database) {
    let stage = Stage::new(database).await;
    let enqueued = now_ms();
    let soon = stage.pool.enqueue(stage.entry("soon").delay(Duration::from_millis(1))).await;
    let later = stage.pool.enqueue(stage.entry("later").delay(Duration::from_secs(2))).await;
    let relay = run(stage.relay());
    let taken = stage.take(1).await;
    stage.drained().await;
    let message = stage.next().await;
    assert_eq!(taken[0].0, soon.to_string(), "its delay was over");
    assert_eq!(message.delivery.properties.message_id().as_ref().unwrap().as_str(), later.as_str());
    assert!(now_ms() >= enqueued + 2_000);
    relay.stop().await.unwrap();
}

async fn a_unique_job_takes_its_key_from_the_store_of_the_relay(database: Database) {
    let stage = Stage::new(database).await;
    let unique = || stage.entry("{}").unique("account-7", Duration::from_secs(3600));
    let first = stage.pool.enqueue(unique()).await;
    let relay = run(stage.relay());
    let aside = async || stage.outbox.status().await.unwrap().set_aside;
    eventually_eq("without a store it is set aside", LONG, 1, aside).await;
    relay.stop().await.unwrap();
    let reason = stage.outbox.set_aside(0, 1).await.unwrap().remove(0).reason;
    assert!(reason.contains("Relay::unique_in"), "{reason}");

    assert_eq!(stage.outbox.retry(&SetAsideSelection::All).await.unwrap(), 1);
    let relay = run(stage.relay().unique_in(Arc::new(InMemory::default())));
    stage.drained().await;
    stage.pool.enqueue(unique()).await;
    stage.drained().await;
    assert_eq!((stage.depth().await, aside().await), (1, 0), "the second finds the key taken");
    assert_eq!(stage.take(1).await[0].0, first.to_string());
    relay.stop().await.unwrap();
}

async fn what_could_never_be_published_is_refused_and_the_transaction_goes_on(database: Database) {
    let stage = Stage::new(database).await;
    let refused = [
        NewJob::raw("Not A Name", "q", "{}"),
        NewJob::raw("job", "", "{}"),
        NewJob::raw("job", "q", "{}").id("x".repeat(256)),
        NewJob::raw("job", "q", "{}").priority(32),
        NewJob::raw("job", "q", "{}").header("x-death", 1),
        NewJob::raw("job", "q", "{}").label("x".repeat(1025)),
        NewJob::raw("job", "q", "{}").delay(Duration::from_secs(400_000_000)),
    ];
    let id = in_transaction!(&stage.pool, |tx| {
        for entry in refused {
            let error = Outbox::enqueue(&mut tx, entry).await.unwrap_err();
            assert!(matches!(error, Error::InvalidJob(_)) && error.is_refusal(), "{error:?}");
        }
        let error = Outbox::enqueue_ordered(&mut tx, "", stage.entry("bad")).await.unwrap_err();
        assert!(error.to_string().contains("order key \"\"") && error.is_refusal(), "{error:?}");
        Outbox::enqueue(&mut tx, stage.entry("good")).await.unwrap()
    });
    assert_eq!(stage.pending().await, 1);
    let relay = run(stage.relay());
    assert_eq!(stage.take(1).await[0].0, id.to_string());
    relay.stop().await.unwrap();
}

async fn many_are_enqueued_at_once_and_their_ids_returned_in_order(database: Database) {
    let stage = Stage::new(database).await;
    let entries = (0..1_234).map(|number| stage.entry(number)).collect();
    let ids = stage.pool.enqueue_all(entries).await;
    let relay = run(stage.relay());
    let mut taken = stage.take(1_234).await;
    stage.drained().await;
    relay.stop().await.unwrap();
    taken.sort_by_key(|(_, payload)| payload.parse::<u32>().unwrap());
    let expected: Vec<_> = ids.iter().map(JobId::to_string).zip((0..1_234).map(|number| number.to_string())).collect();
    assert_eq!(taken, expected);
}

async fn many_may_migrate_at_once_and_tables_of_a_newer_leveret_are_left_alone(database: Database) {
    let pool = Pool::open(&database.url).await;
    assert!(matches!(pool.outbox().status().await, Err(Error::NoTables { part: "outbox" })));
    let migrating: Vec<_> = (0..8).map(|_| tokio::spawn(Outbox::migrate(pool.outbox()))).collect();
    for migrating in migrating {
        migrating.await.unwrap().unwrap();
    }
    assert_eq!(pool.outbox().status().await.unwrap().pending, 0);
    pool.run("INSERT INTO leveret_outbox_migrations (version, applied_at) VALUES (99, 0)").await;
    assert!(matches!(Outbox::migrate(pool.outbox()).await, Err(Error::Newer { found: 99, known: 1 })));
    assert!(matches!(pool.outbox().status().await, Err(Error::Newer { .. })));
}
