//! Measures how fast a projection computes a view again:
//! `cargo run --release -p leveret-sql --example projection_rates [postgres|sqlite] [events]`.
//!
//! It starts a RabbitMQ node and a PostgreSQL server of its own, emits the events, and runs a projection whose handler has one
//! statement. Then it reads the same log without a database, which is the limit of the broker and the client.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for measuring: what it measured is its output"
)]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use leveret::{
    Broker, Config, Event,
    event_log::{self, EventLog, Start},
};
use leveret_harness::{Postgres, shared_node};
use leveret_sql::Projections;
use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio_util::sync::CancellationToken;

const EVENTS: u64 = 1_000_000;
const IN_FLIGHT: usize = 1000;
const TABLE: &str = "CREATE TABLE revenue (day BIGINT PRIMARY KEY, cents BIGINT NOT NULL)";
const ADD: &str = "INSERT INTO revenue VALUES ($1, $2) ON CONFLICT (day) DO UPDATE SET cents = revenue.cents + $2";

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
struct OrderPlaced {
    order: u64,
    customer: String,
    day: i64,
    cents: i64,
}

fn placed(order: u64) -> OrderPlaced {
    let day = i64::try_from(order % 365).unwrap();
    OrderPlaced { order, customer: format!("reader-{order}@example.org"), day, cents: 1999 }
}

macro_rules! projection {
    ($database:ident, $connection:ty) => {
        mod $database {
            use leveret_sql::Projection;

            use super::{ADD, OrderPlaced};

            async fn add(order: OrderPlaced, tx: &mut $connection) -> sqlx::Result<()> {
                sqlx::query(ADD).bind(order.day).bind(order.cents).execute(tx).await?;
                Ok(())
            }

            async fn empty(tx: &mut $connection) -> sqlx::Result<()> {
                sqlx::query("DELETE FROM revenue").execute(tx).await?;
                Ok(())
            }

            pub(super) fn projection() -> Projection<$connection> {
                Projection::new("revenue", empty).on(add)
            }
        }
    };
}

projection!(postgres, sqlx::PgConnection);
projection!(sqlite, sqlx::SqliteConnection);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let events = arguments.iter().find_map(|word| word.parse().ok()).unwrap_or(EVENTS);
    let wanted =
        |name: &str| !arguments.iter().any(|word| ["postgres", "sqlite"].contains(&word.as_str()) && word != name);
    let amqp = shared_node().await.url();
    let broker = || Broker::amqp(Config { amqp_url: vec![amqp.clone()], ..Config::default() });
    emit(&broker()?, events).await?;
    read(&broker()?, events).await?;
    if wanted("postgres") {
        let server = Postgres::start().await;
        let pool = PgPool::connect(&server.database().await).await?;
        sqlx::raw_sql(TABLE).execute(&pool).await?;
        let projections = Projections::migrate(&pool).await?;
        let (broker, stop) = (broker()?, CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let running = tokio::spawn(async move { postgres::projection().run(&broker, &pool, stopped).await });
        applied("postgres", &projections, events).await?;
        stop.cancel();
        running.await??;
    }
    if wanted("sqlite") {
        let folder = tempfile::tempdir()?;
        let options = SqliteConnectOptions::new().filename(folder.path().join("shop.db")).create_if_missing(true);
        let pool = SqlitePool::connect_with(options.journal_mode(SqliteJournalMode::Wal)).await?;
        sqlx::raw_sql(TABLE).execute(&pool).await?;
        let projections = Projections::migrate(&pool).await?;
        let (broker, stop) = (broker()?, CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let running = tokio::spawn(async move { sqlite::projection().run(&broker, &pool, stopped).await });
        applied("sqlite", &projections, events).await?;
        stop.cancel();
        running.await??;
    }
    Ok(())
}

async fn emit(broker: &Broker, events: u64) -> Result<(), Box<dyn std::error::Error>> {
    event_log::declare(broker).await?;
    let (publisher, began) = (broker.publisher(), Instant::now());
    let mut emits = futures_util::stream::iter(0..events)
        .map(|order| {
            let publisher = publisher.clone();
            async move { publisher.emit(&placed(order)).await }
        })
        .buffered(IN_FLIGHT);
    while let Some(emitted) = emits.next().await {
        emitted?;
    }
    rate("emitted", events, began);
    Ok(())
}

async fn read(broker: &Broker, events: u64) -> Result<(), Box<dyn std::error::Error>> {
    let (mut log, began) = (EventLog::open(broker, Start::First).await?, Instant::now());
    for _ in 0..events {
        log.next().await?;
    }
    rate("read without a database", events, began);
    Ok(())
}

async fn applied(database: &str, projections: &Projections, events: u64) -> leveret_sql::Result<()> {
    let (before, began) = (memory(), Instant::now());
    let mut most = before;
    while projections.list().await?.first().is_none_or(|status| status.applied < events) {
        most = most.max(memory());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rate(&format!("applied on {database}"), events, began);
    println!("    memory {} MB before, {} MB at most", before / 1024, most / 1024);
    Ok(())
}

/// The resident memory of this process, in kB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn rate(what: &str, count: u64, began: Instant) {
    println!("  {what}: {:.0}/s ({count} in {:.1?})", count as f64 / began.elapsed().as_secs_f64(), began.elapsed());
}
