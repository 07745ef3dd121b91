//! The audit log.

use leveret_store::{DeadFilter, Selection};
use serde_json::json;

use crate::database::{ANNA, Database, OpenStore};

leveret_harness::on_both_databases! {
    the_log_has_each_operation_latest_first_and_page_by_page,
}

async fn the_log_has_each_operation_latest_first_and_page_by_page(database: Database) {
    let store = database.open().await;
    store.audit(ANNA, "cancel", &json!({"job": "a"})).await.unwrap();
    store.purge(&Selection::Filter(DeadFilter::default()), ANNA).await.unwrap();
    store.restore(&Selection::Ids(vec![1]), ANNA).await.unwrap();

    let first = store.audit_log(None, 2).await.unwrap();
    let actions: Vec<_> = first.items.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["restore", "purge"]);
    assert_eq!(first.items[0].detail, json!({"selection": {"ids": [1]}, "letters": 0}));
    let second = store.audit_log(first.next.as_ref(), 2).await.unwrap();
    assert_eq!((second.items.len(), second.next), (1, None));
    assert_eq!((second.items[0].actor.as_str(), second.items[0].at), ("anna", ANNA.at));
}
