//! PostgreSQL behind PgBouncer in transaction mode: each transaction may get another connection of the database.

use leveret::status_update::Step;
use leveret_harness::{PgBouncer, eventually_eq, shared_postgres, unique};
use leveret_store::{Entry, Outbox, Store};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{
    database::{Database, NOW},
    outbox::stage::{LONG, Stage, run},
    status::event,
};

/// What a session of the database keeps for whoever gets it next.
async fn left_behind(url: &str) -> (i64, i64, i64) {
    let pool = PgPool::connect(url).await.unwrap();
    let mut left = (0, 0, 0);
    for _ in 0..8 {
        let sql =
            "SELECT (SELECT count(*) FROM pg_listening_channels())::text || ' ' || current_setting('lock_timeout')
                   || ' ' || (SELECT count(*) FROM pg_prepared_statements)::text";
        let row = sqlx::raw_sql(sql);
        let text: String = sqlx::Row::get(&sqlx::Executor::fetch_one(&pool, row).await.unwrap(), 0);
        let mut words = text.split(' ');
        left.0 += words.next().unwrap().parse::<i64>().unwrap();
        left.1 += i64::from(words.next().unwrap() != "0");
        left.2 += words.next().unwrap().parse::<i64>().unwrap();
    }
    left
}

/// Each in a transaction of its own, every second one with an order key.
async fn enqueue_all(pool: PgPool, key: String, entries: Vec<Entry>) {
    for (number, entry) in entries.into_iter().enumerate() {
        let mut tx = pool.begin().await.unwrap();
        let entry = if number.is_multiple_of(2) { entry.order_key(&key) } else { entry };
        Outbox::enqueue(&mut tx, entry).await.unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn outbox_inbox_and_relay_work_through_pgbouncer_and_leave_nothing_in_its_sessions() {
    let postgres = shared_postgres().await;
    let bouncer = PgBouncer::start(postgres).await;
    let url = bouncer.url(&postgres.database().await);
    let stage = Stage::new(Database::at(url.clone())).await;
    let relay = run(stage.relay());
    let pool = PgPoolOptions::new().max_connections(12).connect(&url).await.unwrap();
    let enqueueing = (0..12).map(|task| {
        let entries: Vec<_> = (0..20).map(|number| stage.entry(task * 20 + number)).collect();
        tokio::spawn(enqueue_all(pool.clone(), format!("k{task}"), entries))
    });
    for task in enqueueing.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut taken: Vec<u32> = stage.take(240).await.iter().map(|(_, payload)| payload.parse().unwrap()).collect();
    taken.sort_unstable();
    assert_eq!(taken, (0..240).collect::<Vec<_>>());
    stage.drained().await;
    crate::inbox::is_done_once_through(&url).await;
    relay.stop().await.unwrap();
    assert_eq!(left_behind(&url).await, (0, 0, 0), "channels, lock timeouts, prepared statements");
}

#[tokio::test]
async fn the_store_works_through_pgbouncer_and_leaves_nothing_in_its_sessions() {
    let postgres = shared_postgres().await;
    let bouncer = PgBouncer::start(postgres).await;
    let url = bouncer.url(&postgres.database().await);
    let store = Store::open(&url).await.unwrap();
    let working = (0..12).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..15 {
                let id = unique("pooled");
                store.record(&[event(&id, 0, 1, Step::Started)]).await.unwrap();
                assert!(store.job(&id).await.unwrap().is_some());
                store.heard(NOW).await.unwrap();
                assert_eq!(store.heard_at().await.unwrap(), Some(NOW));
                store.timeline(&id).await.unwrap();
                store.ping().await.unwrap();
            }
        })
    });
    for task in working.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    eventually_eq("nothing is left", LONG, (0, 0, 0), async || left_behind(&url).await).await;
}
