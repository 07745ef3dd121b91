//! One key has one response.

use std::time::Duration;

use leveret_store::{IdempotencyClaim, IdempotencyRequest};
use serde_json::json;

use crate::database::{Database, NOW, OpenStore};

leveret_harness::on_both_databases! {
    a_key_is_claimed_once_and_answers_the_same_ever_after,
    a_claim_whose_server_died_is_had_again_with_the_ids_of_the_first,
    of_many_at_once_one_gets_the_key,
}

const LEASE: Duration = Duration::from_secs(30);

fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

async fn a_key_is_claimed_once_and_answers_the_same_ever_after(database: Database) {
    let store = database.open().await;
    let first = ids(&["a", "b"]);
    let request = IdempotencyRequest { key: "k", body_hash: "h", task_ids: &first };
    assert_eq!(store.claim(&request, NOW, LEASE).await.unwrap(), IdempotencyClaim::New { task_ids: first.clone() });
    assert_eq!(store.claim(&request, NOW + 1, LEASE).await.unwrap(), IdempotencyClaim::InFlight);
    let other = IdempotencyRequest { body_hash: "other", ..request };
    assert_eq!(store.claim(&other, NOW + 1, LEASE).await.unwrap(), IdempotencyClaim::Other);
    store.finish("k", &json!(["a", "b"])).await.unwrap();
    let again = IdempotencyRequest { task_ids: &ids(&["c", "d"]), ..request };
    assert_eq!(store.claim(&again, NOW + 99_999, LEASE).await.unwrap(), IdempotencyClaim::Done(json!(["a", "b"])));
    assert_eq!(store.claim(&other, NOW + 99_999, LEASE).await.unwrap(), IdempotencyClaim::Other);
}

async fn a_claim_whose_server_died_is_had_again_with_the_ids_of_the_first(database: Database) {
    let store = database.open().await;
    let (first, second) = (ids(&["a"]), ids(&["b"]));
    let request = IdempotencyRequest { key: "k", body_hash: "h", task_ids: &first };
    store.claim(&request, NOW, LEASE).await.unwrap();
    let again = IdempotencyRequest { task_ids: &second, ..request };
    let own = IdempotencyClaim::New { task_ids: first.clone() };
    assert_eq!(store.claim(&again, NOW + 29_999, LEASE).await.unwrap(), IdempotencyClaim::InFlight);
    assert_eq!(store.claim(&again, NOW + 30_000, LEASE).await.unwrap(), own);
    assert_eq!(store.claim(&again, NOW + 30_001, LEASE).await.unwrap(), IdempotencyClaim::InFlight);
    store.release("k").await.unwrap();
    assert_eq!(store.claim(&again, NOW + 30_002, LEASE).await.unwrap(), own);
}

async fn of_many_at_once_one_gets_the_key(database: Database) {
    let store = database.open().await;
    let claims = (0..16).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let request = IdempotencyRequest { key: "k", body_hash: "h", task_ids: &[number.to_string()] };
            store.claim(&request, NOW, LEASE).await.unwrap()
        })
    });
    let mut news = 0;
    for claim in claims.collect::<Vec<_>>() {
        news += usize::from(matches!(claim.await.unwrap(), IdempotencyClaim::New { .. }));
    }
    assert_eq!(news, 1);
}
