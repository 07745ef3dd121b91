//! PostgreSQL behind PgBouncer in transaction mode: each transaction may get another connection of the database.

use leveret::NewJob;
use leveret_harness::{Database, PgBouncer, shared_postgres};
use leveret_sql::{
    Outbox,
    db::{Pool, Sql},
};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::outbox::stage::{Stage, run};

/// Enqueues each job in a transaction of its own, every second one with an order key.
async fn enqueue_all(pool: PgPool, key: String, entries: Vec<NewJob>) {
    for (number, entry) in entries.into_iter().enumerate() {
        let mut tx = pool.begin().await.unwrap();
        if number.is_multiple_of(2) {
            Outbox::enqueue_ordered(&mut tx, &key, entry).await.unwrap();
        } else {
            Outbox::enqueue(&mut tx, entry).await.unwrap();
        }
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
    assert_eq!(PgBouncer::left_behind(postgres, &url).await, (0, 0, 0), "channels, lock timeouts, prepared statements");
}

#[tokio::test]
async fn postgresql_keeps_statements_prepared_only_if_the_address_asks_for_it() {
    let url = shared_postgres().await.database().await;
    for (parameters, expected) in [("", false), ("?statement-cache-capacity=100", true)] {
        let pool = Pool::open(&format!("{url}{parameters}")).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        let count = Sql::new("SELECT count(*) FROM pg_prepared_statements WHERE $1 = 1").arg(1u32);
        let kept: i64 = count.one(&mut connection).await.unwrap();
        assert_eq!(kept > 0, expected, "{parameters:?}: {kept}");
    }
}
