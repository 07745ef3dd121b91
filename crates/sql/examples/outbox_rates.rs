//! Measures the speed and memory of a relay, with few and with many pending rows, next to `publish_all`:
//! `cargo run --release -p leveret-sql --example outbox_rates [postgres|sqlite] [waiting…]`.
//!
//! It starts a RabbitMQ node and a PostgreSQL server of its own. It relays a tenth of the pending rows, but no fewer
//! than 50,000, or all of them with `--all`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for measuring: what it measured is its output"
)]

use std::time::{Duration, Instant};

use leveret::{Broker, Config, Job};
use leveret_harness::{
    Postgres, RawClient,
    lapin::{
        options::{QueueBindOptions, QueuePurgeOptions},
        types::FieldTable,
    },
    shared_node,
};
use leveret_sql::{Outbox, Relay};
use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio_util::sync::CancellationToken;

const JOBS: u64 = 50_000;
const IN_A_TRANSACTION: u64 = 5_000;

#[derive(Serialize, Deserialize)]
struct SendEmail {
    number: u64,
    to: String,
    text: String,
}

impl Job for SendEmail {
    const NAME: &'static str = "email.send";
    const QUEUE: &'static str = "rates";
}

fn job(number: u64) -> SendEmail {
    SendEmail { number, to: format!("reader-{number}@example.org"), text: "x".repeat(200) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let waiting: Vec<u64> = arguments.iter().filter_map(|word| word.parse().ok()).collect();
    let waiting = if waiting.is_empty() { vec![10_000, 1_000_000] } else { waiting };
    let wanted =
        |name: &str| !arguments.iter().any(|word| ["postgres", "sqlite"].contains(&word.as_str()) && word != name);
    let all = arguments.iter().any(|word| word == "--all");
    let amqp = shared_node().await.url();
    let raw = RawClient::connect(&amqp).await?;
    let broker = || Broker::amqp(Config { amqp_url: vec![amqp.clone()], ..Config::default() });
    declare(&raw, &broker()?).await?;
    let (folder, server) = (tempfile::tempdir()?, Postgres::start().await);
    let options = SqliteConnectOptions::new().filename(folder.path().join("shop.db")).create_if_missing(true);
    let sqlite = SqlitePool::connect_with(options.journal_mode(SqliteJournalMode::Wal)).await?;
    let postgres = PgPool::connect(&server.database().await).await?;
    for (name, pool) in [("postgres", Pool::Postgres(postgres)), ("sqlite", Pool::Sqlite(sqlite))] {
        if !wanted(name) {
            continue;
        }
        println!("{name}");
        let outbox = Outbox::migrate(&pool.outbox()).await?;
        for waiting in &waiting {
            publish_all(&broker()?).await;
            raw.channel().queue_purge("rates".into(), QueuePurgeOptions::default()).await?;
            fill(&pool, outbox.status().await?.pending, *waiting).await?;
            let relayed = if all { *waiting } else { (waiting / 10).max(JOBS).min(*waiting) };
            relay(&outbox, &broker()?, relayed).await?;
            raw.channel().queue_purge("rates".into(), QueuePurgeOptions::default()).await?;
        }
    }
    Ok(())
}

enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl Pool {
    fn outbox(&self) -> Outbox {
        match self {
            Self::Postgres(pool) => Outbox::new(pool),
            Self::Sqlite(pool) => Outbox::new(pool),
        }
    }

    /// In one transaction.
    async fn enqueue(&self, jobs: &[SendEmail]) -> Result<(), Box<dyn std::error::Error>> {
        match self {
            Self::Postgres(pool) => {
                let mut tx = pool.begin().await?;
                Outbox::enqueue_all(&mut tx, jobs).await?;
                tx.commit().await?;
            }
            Self::Sqlite(pool) => {
                let mut tx = pool.begin().await?;
                Outbox::enqueue_all(&mut tx, jobs).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }
}

async fn fill(pool: &Pool, have: u64, wanted: u64) -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    for first in (have..wanted).step_by(IN_A_TRANSACTION as usize) {
        let jobs: Vec<_> = (first..(first + IN_A_TRANSACTION).min(wanted)).map(job).collect();
        pool.enqueue(&jobs).await?;
    }
    rate(&format!("enqueued, until {wanted} wait"), wanted - have, began);
    Ok(())
}

async fn declare(raw: &RawClient, broker: &Broker) -> Result<(), Box<dyn std::error::Error>> {
    // The first publish declares the exchange.
    broker.publisher().publish(&job(0)).await.unwrap_err();
    raw.declare_quorum("rates", FieldTable::default()).await?;
    let bind = QueueBindOptions::default();
    let bound =
        raw.channel().queue_bind("rates".into(), "leveret.v1.jobs".into(), "rates".into(), bind, FieldTable::default());
    Ok(bound.await?)
}

async fn publish_all(broker: &Broker) {
    let jobs: Vec<_> = (0..JOBS).map(job).collect();
    let began = Instant::now();
    let results = broker.publisher().publish_all(&jobs).await;
    assert!(results.iter().all(Result::is_ok));
    rate("publish_all", JOBS, began);
}

async fn relay(outbox: &Outbox, broker: &Broker, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let (before, stop) = (memory(), CancellationToken::new());
    let relay = Relay::new(outbox, broker);
    let running = tokio::spawn(relay.run(stop.clone().cancelled_owned()));
    let (began, mut most) = (Instant::now(), before);
    let (mut slice, mut slices) = (Instant::now(), Vec::new());
    loop {
        let done = published(broker);
        most = most.max(memory());
        let slice_size = (count / 10).max(1);
        while done >= slice_size * (slices.len() as u64 + 1) && slices.len() < 10 {
            slices.push(slice_size as f64 / slice.elapsed().as_secs_f64().max(1e-3));
            slice = Instant::now();
        }
        if done >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rate("relayed", count, began);
    let slices: Vec<_> = slices.iter().map(|rate| format!("{rate:.0}")).collect();
    println!("    by tenths: {}; memory {} MB before, {} MB at most", slices.join(" "), before / 1024, most / 1024);
    stop.cancel();
    running.await??;
    Ok(())
}

fn published(broker: &Broker) -> u64 {
    let families = broker.registry().gather();
    let counter = families.iter().find(|family| family.name() == "leveret_outbox_published_total");
    counter.map_or(0, |family| family.get_metric()[0].get_counter().get_value() as u64)
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
