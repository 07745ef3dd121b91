//! `leveret projections`.

use leveret::Event;
use leveret_harness::eventually;
use leveret_sql::Projection;
use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, SqlitePool, sqlite::SqliteConnectOptions};
use tokio::task::JoinHandle;

use crate::post::{LONG, Post};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
struct OrderPlaced {
    cents: i64,
}

async fn add(order: OrderPlaced, tx: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO orders VALUES ($1)").bind(order.cents).execute(tx).await?;
    Ok(())
}

async fn empty(tx: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM orders").execute(tx).await?;
    Ok(())
}

#[tokio::test]
async fn a_projection_that_stands_still_is_shown_skipped_and_reset() {
    let post = Post::sqlite().await;
    let own = post.path("own.db");
    let run = async |line: &[&str]| post.run(&[line, &["--database", &own]].concat()).await;
    let missing = run(&["projections", "list"]).await.ends(2);
    assert!(missing.stderr.contains("there is no database"), "{missing:?}");
    run(&["projections", "migrate"]).await.ends(0);
    post.run(&["events", "log"]).await.ends(0);
    for payload in [r#"{"cents": 1}"#, r#"{"cents": "S3cret"}"#, r#"{"cents": 3}"#] {
        post.run(&["events", "emit", "order.placed", "--payload", payload]).await.ends(0);
    }
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&own)).await.unwrap();
    sqlx::raw_sql("CREATE TABLE orders (cents BIGINT NOT NULL)").execute(&pool).await.unwrap();
    let start = || -> JoinHandle<leveret_sql::Result<()>> {
        let (broker, pool) = (post.broker(), pool.clone());
        tokio::spawn(async move {
            Projection::new("revenue", empty).on(add).run(&broker, &pool, std::future::pending()).await
        })
    };
    start().await.unwrap().unwrap_err();
    let listed = async || run(&["projections", "list", "--output", "json"]).await.ends(0).json()[0].clone();
    let stands = listed().await;
    for (field, value) in [("position", 0), ("lag", 2), ("applied", 1), ("failed_offset", 1), ("tries", 1)] {
        assert!(stands[field].as_i64() >= Some(value), "{field} of {stands}");
    }
    assert!(stands["holder"].is_null() && !stands["error"].to_string().contains("S3cret"), "{stands}");
    let table = run(&["projections", "list"]).await.ends(0).stdout;
    assert!(table.contains("FAILS AT") && table.contains("stopped at an event"), "{table}");

    let unconfirmed = run(&["projections", "skip", "revenue", "1"]).await.ends(2);
    assert!(unconfirmed.stderr.contains("--yes"), "{unconfirmed:?}");
    let other = run(&["projections", "skip", "revenue", "2", "--yes"]).await.ends(2);
    assert!(other.stderr.contains("it does at event 1"), "{other:?}");
    run(&["projections", "skip", "unknown", "1", "--yes"]).await.ends(5);
    run(&["projections", "skip", "revenue", "1", "--yes"]).await.ends(0);
    let running = start();
    eventually("the others are applied", LONG, async || listed().await["lag"] == 0).await;
    let shown = listed().await;
    assert!(shown["error"].is_null() && shown["holder"].is_string() && shown["position"] == 2, "{shown}");
    running.abort();

    run(&["projections", "reset", "revenue"]).await.ends(2);
    run(&["projections", "reset", "unknown", "--yes"]).await.ends(5);
    run(&["projections", "reset", "revenue", "--yes"]).await.ends(0);
    let shown = listed().await;
    assert_eq!(
        (shown["position"].is_null(), shown["lag"].as_i64(), shown["applied"].as_i64()),
        (true, Some(3), Some(0))
    );
    let unreachable = post.run(&["projections", "list", "--database", &own, "--amqp-url", "amqp://127.0.0.1:1"]).await;
    let unreachable = unreachable.ends(0);
    assert!(unreachable.stderr.contains("the lag is unknown"), "{unreachable:?}");
}
