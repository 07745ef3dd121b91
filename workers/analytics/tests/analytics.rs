//! The view of the analytics, on both databases.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

use std::time::Duration;

use leveret::{Broker, event_log};
use leveret_analytics::{Analytics, DayRevenue, OrderPlaced, ProductSales};
use leveret_harness::{Database, eventually_eq};
use leveret_sql::Projections;

const LONG: Duration = Duration::from_secs(60);

leveret_harness::on_both_databases! {
    revenue_and_products_are_those_of_the_log_also_after_a_reset,
}

/// The JSON as the orders worker emits it.
fn placed(order: i64, at: &str, lines: &[(&str, i64, i64)]) -> OrderPlaced {
    let total: i64 = lines.iter().map(|(_, quantity, cents)| quantity * cents).sum();
    let lines: Vec<_> = lines
        .iter()
        .map(|(sku, quantity, cents)| serde_json::json!({ "sku": sku, "quantity": quantity, "cents": cents }))
        .collect();
    serde_json::from_value(serde_json::json!({
        "order": order, "customer": "ada@example.org", "lines": lines, "total_cents": total, "placed_at": at,
        "currency": "EUR",
    }))
    .unwrap()
}

fn day(day: &str, orders: i64, cents: i64) -> DayRevenue {
    DayRevenue { day: day.to_owned(), orders, cents }
}

fn product(sku: &str, pieces: i64, cents: i64) -> ProductSales {
    ProductSales { sku: sku.to_owned(), pieces, cents }
}

async fn revenue_and_products_are_those_of_the_log_also_after_a_reset(database: Database) {
    let broker = Broker::memory();
    event_log::declare(&broker).await.unwrap();
    let orders = [
        placed(1, "2026-11-30T08:00:00Z", &[("TEA-0101", 2, 500), ("POT-0003", 1, 4500)]),
        placed(2, "2026-12-01T00:30:00+02:00", &[("TEA-0101", 1, 500)]),
        placed(3, "2026-12-01T09:00:00Z", &[("CUP-0001", 9, 100)]),
    ];
    for order in &orders {
        // Twice, as a relay may.
        for _ in 0..2 {
            broker.publisher().emit(order).id(format!("order-{}", order.order)).await.unwrap();
        }
    }
    let analytics = Analytics::open(&database.url).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn({
        let (analytics, broker) = (analytics.clone(), broker.clone());
        async move { analytics.run(&broker, async { drop(stopped.await) }).await }
    });
    let days = vec![day("2026-11-30", 2, 6000), day("2026-12-01", 1, 900)];
    eventually_eq("the revenue is known", LONG, days.clone(), async || analytics.days().await.unwrap()).await;
    let top = analytics.top_products(2).await.unwrap();
    assert_eq!(top, [product("POT-0003", 1, 4500), product("TEA-0101", 3, 1500)]);

    let projections = match &analytics {
        Analytics::Postgres(pool) => Projections::new(pool),
        Analytics::Sqlite(pool) => Projections::new(pool),
    };
    projections.reset("analytics", &broker, false).await.unwrap();
    let applied = async || projections.list().await.unwrap()[0].applied;
    eventually_eq("the view is computed again", LONG, 3, applied).await;
    assert_eq!((analytics.days().await.unwrap(), analytics.top_products(2).await.unwrap()), (days, top));
    drop(stop);
    running.await.unwrap().unwrap();
}
