//! PostgreSQL behind PgBouncer in transaction mode: each transaction may get another connection of the database.

use std::time::Duration;

use leveret::status_update::Transition;
use leveret_harness::{PgBouncer, eventually_eq, shared_postgres, unique};
use leveret_store::Store;

use crate::{database::NOW, status::event};

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
                store.record(&[event(&id, 0, 1, Transition::Started)]).await.unwrap();
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
    eventually_eq("nothing is left", Duration::from_secs(60), (0, 0, 0), async || {
        PgBouncer::left_behind(postgres, &url).await
    })
    .await;
}
