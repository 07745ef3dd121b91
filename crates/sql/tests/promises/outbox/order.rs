//! The order of jobs with one key.

use std::{collections::HashMap, time::Duration};

use leveret::NewJob;
use leveret_harness::{eventually, eventually_eq, unique};
use leveret_sql::{Outbox, SetAsideSelection};

use super::stage::{LONG, Pool, Stage, run};
use leveret_harness::Database;

leveret_harness::on_both_databases! {
    jobs_of_one_key_are_published_in_order_by_relays_side_by_side,
    a_key_that_cannot_be_published_holds_up_no_other_and_goes_on_in_order_when_it_can,
    a_row_that_another_relay_has_holds_up_those_behind_it,
}

async fn jobs_of_one_key_are_published_in_order_by_relays_side_by_side(database: Database) {
    const KEYS: usize = 300;
    const EACH: usize = 6;
    let stage = Stage::new(database).await;
    let relays = [(); 3].map(|()| run(stage.relay().batch(40)));
    for number in 0..EACH {
        let entry = |key| (Some(format!("customer {key}")), stage.entry(format!("{key}:{number}")));
        stage.pool.enqueue_all_ordered((0..KEYS).map(entry).collect()).await;
        stage.pool.enqueue(stage.entry(format!("none:{number}"))).await;
    }
    // One key with more rows than a claim takes of a key.
    let hot = (0..200).map(|number| (Some("hot".to_owned()), stage.entry(format!("hot:{number}")))).collect();
    stage.pool.enqueue_all_ordered(hot).await;
    let taken = stage.take(EACH * (KEYS + 1) + 200).await;
    stage.drained().await;
    for relay in relays {
        relay.stop().await.unwrap();
    }
    assert_eq!(stage.depth().await, 0, "each came once");
    let mut of_key: HashMap<&str, Vec<usize>> = HashMap::new();
    for (_, payload) in &taken {
        let (key, number) = payload.split_once(':').unwrap();
        of_key.entry(key).or_default().push(number.parse().unwrap());
    }
    of_key.remove("none");
    assert_eq!(of_key.len(), KEYS + 1);
    for (key, numbers) in of_key {
        let count = if key == "hot" { 200 } else { EACH };
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{key}");
    }
}

async fn a_key_that_cannot_be_published_holds_up_no_other_and_goes_on_in_order_when_it_can(database: Database) {
    let mut stage = Stage::new(database).await;
    let missing = unique("missing");
    let lost = |number: usize| (Some("lost".to_owned()), NewJob::raw("test.job", missing.clone(), number.to_string()));
    stage.pool.enqueue_all_ordered((0..100).map(lost).collect()).await;
    stage
        .pool
        .enqueue_all_ordered((0..50).map(|number| (Some("kept".to_owned()), stage.entry(number))).collect())
        .await;
    stage.pool.enqueue_all((50..60).map(|number| stage.entry(number)).collect()).await;
    let relay = run(stage.relay().tries(2, Duration::from_millis(50)));
    assert_eq!(stage.take(60).await.len(), 60);
    eventually("the first is set aside", LONG, async || stage.outbox.status().await.unwrap().set_aside == 1).await;
    let aside = stage.outbox.set_aside(0, 10).await.unwrap();
    assert_eq!((aside[0].tries, aside[0].order_key.as_deref()), (2, Some("lost")));
    assert!(aside[0].reason.contains(&missing), "{aside:?}");
    assert_eq!(stage.pending().await, 99, "those behind it wait");

    stage.declare(&missing).await;
    stage.queue = missing;
    assert_eq!(stage.outbox.retry(&SetAsideSelection::Numbers(vec![aside[0].number])).await.unwrap(), 1);
    let taken = stage.take(100).await;
    stage.drained().await;
    relay.stop().await.unwrap();
    let numbers: Vec<_> = taken.iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(numbers, (0..100).map(|number: usize| number.to_string()).collect::<Vec<_>>());
}

async fn a_row_that_another_relay_has_holds_up_those_behind_it(database: Database) {
    let stage = Stage::new(database).await;
    stage.pool.enqueue_all_ordered((0..3).map(|number| (Some("k".to_owned()), stage.entry(number))).collect()).await;
    let lease = |until| format!("UPDATE leveret_outbox SET lease = 7, leased_until = {until} WHERE seq = 2");
    stage.pool.run(&lease("9000000000000000")).await;
    let relay = run(stage.relay());
    assert_eq!(stage.take(1).await[0].1, "0");
    stage.pool.enqueue(stage.entry("other")).await;
    assert_eq!(stage.take(1).await[0].1, "other");
    eventually_eq("two wait", LONG, 2, async || stage.pending().await).await;
    stage.pool.run(&lease("0")).await;
    let taken = stage.take(2).await;
    assert_eq!((taken[0].1.as_str(), taken[1].1.as_str()), ("1", "2"));
    stage.drained().await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn on_postgres_the_order_of_a_key_is_that_of_the_commits() {
    let stage = Stage::new(Database::postgres().await).await;
    let Pool::Postgres(pool) = &stage.pool else { unreachable!() };
    let relay = run(stage.relay());
    let mut first = pool.begin().await.unwrap();
    Outbox::enqueue_ordered(&mut first, "k", stage.entry("first")).await.unwrap();
    let (second, entry) = (stage.pool.clone(), stage.entry("second"));
    let second = tokio::spawn(async move { second.enqueue_ordered("k", entry).await });
    stage.pool.enqueue_ordered("l", stage.entry("other")).await;
    assert_eq!(stage.take(1).await[0].1, "other");
    let waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let waits = async || sqlx::query(waiting).fetch_all(pool).await.unwrap().len();
    eventually_eq("the second waits for the first", LONG, 1, waits).await;
    first.commit().await.unwrap();
    second.await.unwrap();
    let taken = stage.take(2).await;
    relay.stop().await.unwrap();
    assert_eq!((taken[0].1.as_str(), taken[1].1.as_str()), ("first", "second"));
}
