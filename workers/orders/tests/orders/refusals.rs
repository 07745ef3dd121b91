//! Tests that an order that cannot be placed becomes a dead letter with an error, without effect.

use leveret::{Broker, ErrorKind, Outcome, testing};
use leveret_orders::{Shop, worker};

use crate::test_shop::{Database, order, waiting};

crate::on_both! {
    an_order_for_more_than_there_is_takes_nothing,
    an_order_that_is_wrong_is_a_dead_letter_that_says_why,
    a_job_waits_for_an_unreachable_database,
}

async fn perform(shop: &Shop, payload: &str) -> Outcome {
    let worker = worker(shop.clone(), shop.relay(&Broker::memory()).waker());
    testing::perform_raw(worker, "orders", "order.place", payload.as_bytes(), 1).await.unwrap()
}

async fn an_order_for_more_than_there_is_takes_nothing(database: Database) {
    let shop = Shop::open(&database.url).await.unwrap();
    shop.set_stock("cup", 5).await.unwrap();
    shop.set_stock("tea", 5).await.unwrap();
    for (lines, expected) in [
        ([("cup", 1), ("tea", 6)], r#"6 of "tea" are ordered, and 5 are in stock"#),
        ([("tea", 3), ("tea", 3)], r#"3 of "tea" are ordered, and 2 are in stock"#),
        ([("cup", 1), ("pot", 1)], r#"there is no article "pot""#),
    ] {
        let payload = serde_json::to_string(&order("ann@example.org", &lines)).unwrap();
        let outcome = perform(&shop, &payload).await;
        let Outcome::DeadLetter { kind: ErrorKind::Permanent, reason } = outcome else { panic!("{outcome:?}") };
        assert_eq!(reason, expected);
    }
    assert_eq!((shop.stock("cup").await.unwrap(), shop.stock("tea").await.unwrap()), (Some(5), Some(5)));
    assert_eq!(waiting(&shop).await, 0);
    // The rollback restored the stock.
    let payload = serde_json::to_string(&order("ann@example.org", &[("cup", 5), ("tea", 5)])).unwrap();
    assert_eq!(perform(&shop, &payload).await, Outcome::Done);
    assert_eq!(waiting(&shop).await, 1);
}

async fn an_order_that_is_wrong_is_a_dead_letter_that_says_why(database: Database) {
    let shop = Shop::open(&database.url).await.unwrap();
    let line = r#"{"sku": "tea", "quantity": 1, "cents": 500}"#;
    let many = vec![line; 101].join(", ");
    for (payload, kind, expected) in [
        (
            format!(r#"{{"customer": "ann", "lines": [{line}]}}"#),
            ErrorKind::Permanent,
            r#""ann" is not a mail address"#,
        ),
        (
            format!(r#"{{"customer": "ann@192.0.2.1", "lines": [{line}]}}"#),
            ErrorKind::Permanent,
            r#""ann@192.0.2.1" is not a mail address"#,
        ),
        (
            format!(r#"{{"customer": "Núñez, Ann <ann@example.org>", "lines": [{line}]}}"#),
            ErrorKind::Permanent,
            r#""Núñez, Ann <ann@example.org>" is not a mail address"#,
        ),
        (r#"{"customer": "ann@example.org", "lines": []}"#.to_owned(), ErrorKind::Permanent, "0 lines"),
        (format!(r#"{{"customer": "ann@example.org", "lines": [{many}]}}"#), ErrorKind::Permanent, "101 lines"),
        (
            format!(r#"{{"customer": "ann@example.org", "lines": [{}]}}"#, line.replace(": 1,", ": 0,")),
            ErrorKind::Decode,
            "zero",
        ),
        (
            format!(r#"{{"customer": "ann@example.org", "lines": [{}]}}"#, line.replace("500", "-500")),
            ErrorKind::Decode,
            "u32",
        ),
        (format!(r#"{{"customer": "ann@example.org", "lines": [{line}], "gift": true}}"#), ErrorKind::Decode, "gift"),
    ] {
        let outcome = perform(&shop, &payload).await;
        let Outcome::DeadLetter { kind: of, reason } = outcome else { panic!("{outcome:?}") };
        assert!(of == kind && reason.contains(expected), "{of:?}: {reason}");
    }
}

async fn a_job_waits_for_an_unreachable_database(database: Database) {
    let shop = Shop::open(&database.url).await.unwrap();
    shop.close().await;
    let payload = serde_json::to_string(&order("ann@example.org", &[("tea", 1)])).unwrap();
    let outcome = perform(&shop, &payload).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
}

/// PostgreSQL refuses a NUL in a text. SQLite accepts it, so the article is unknown there.
#[tokio::test]
async fn data_that_the_database_refuses_is_not_retried() {
    let database = Database::postgres().await;
    let shop = Shop::open(&database.url).await.unwrap();
    let payload = serde_json::to_string(&order("ann@example.org", &[("tea\0", 1)])).unwrap();
    let outcome = perform(&shop, &payload).await;
    assert!(matches!(outcome, Outcome::DeadLetter { kind: ErrorKind::Permanent, .. }), "{outcome:?}");
}
