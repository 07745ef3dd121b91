//! Measures each operation on 100,000 dead letters on a private RabbitMQ: its time, and its memory.
//!
//! `cargo run --release -p leveret-serve --example hundred_thousand` uses SQLite. With the address of an empty PostgreSQL
//! database as its argument, it uses that.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use leveret::{Broker, Config, Context, JobError, JobResult, Worker, catalogue::Catalogue, testing};
use leveret_harness::{RawClient, eventually_eq, shared_node};
use leveret_serve::dead::{DeadLetterService, direct, ingest, replay::ReplayOptions, transfer};
use leveret_store::{DeadFilter, Selection, Store};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

const LETTERS: u32 = 100_000;
const KINDS: u32 = 20;
const LONG: Duration = Duration::from_secs(1800);

/// A job of half a kilobyte.
#[derive(Serialize, Deserialize)]
struct Order {
    number: u32,
    text: String,
}

impl leveret::Job for Order {
    const NAME: &'static str = "order";
    const QUEUE: &'static str = "orders";
}

async fn refuse(order: Order, _ctx: Context<()>) -> JobResult {
    let kind = char::from(b'a' + u8::try_from(order.number % KINDS).unwrap_or(0));
    Err(JobError::permanent(format!("supplier {kind} refuses order {} at 10.0.0.1:5432", order.number)))
}

#[tokio::main]
async fn main() {
    let node = shared_node().await;
    let vhost = node.vhost().await;
    let broker = Broker::amqp(Config { amqp_url: vec![vhost.url()], ..Config::default() }).unwrap();
    let raw = RawClient::connect(&vhost.url()).await.unwrap();
    let worker = testing::start(Worker::new(()).handle(refuse), &broker).await.unwrap();
    for thousand in 0..LETTERS / 1000 {
        let order = |number| Order { number, text: "x".repeat(500) };
        let orders: Vec<_> = (thousand * 1000..(thousand + 1) * 1000).map(order).collect();
        broker.publisher().publish_all(&orders).await.into_iter().for_each(|published| drop(published.unwrap()));
    }
    let dead = async || raw.depth("orders.dead").await.unwrap();
    eventually_eq("all are dead", LONG, Some(LETTERS), dead).await;
    worker.stop().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leveret.db").display().to_string();
    let store = Store::open(&std::env::args().nth(1).unwrap_or(path)).await.unwrap();
    let catalogue = Catalogue::follow(&broker);
    let all = DeadFilter::default();

    measured("export --direct", async {
        direct::export(&broker, "orders", LETTERS.into(), tokio::io::sink(), |_| ()).await.unwrap().done
    })
    .await;
    eventually_eq("they are requeued", LONG, Some(LETTERS), dead).await;
    measured("ingest", async {
        let stop = CancellationToken::new();
        let report = Arc::new(|ends| panic!("no workflow runs: {ends:?}"));
        let on = (broker.clone(), store.clone(), catalogue.clone());
        let run = ingest::run(on, Vec::new(), report, stop.clone());
        let run = tokio::spawn(run);
        eventually_eq("all are ingested", LONG, u64::from(LETTERS), async || store.count_dead(&all).await.unwrap())
            .await;
        stop.cancel();
        run.await.unwrap().unwrap();
        u64::from(LETTERS)
    })
    .await;
    for _ in 0..3 {
        measured("groups", async { store.groups(&all, 50).await.unwrap().len() as u64 }).await;
    }
    measured("list", async { store.dead_letters(&all, None, 100).await.unwrap().items.len() as u64 }).await;
    let text = DeadFilter { text: Some("supplier b refuses order 99".into()), ..all.clone() };
    measured("list --text", async { store.dead_letters(&text, None, 100).await.unwrap().items.len() as u64 }).await;
    measured("export", async { transfer::export(&store, &all, tokio::io::sink()).await.unwrap() }).await;
    let dead = DeadLetterService::new(&broker, &store, &catalogue);
    let replay = async {
        dead.replay(&Selection::Filter(all.clone()), &ReplayOptions::default(), "bench", |_| ()).await.unwrap().replayed
    };
    measured("replay", Box::pin(replay)).await;
}

/// Prints the time, and the peak of the process's own memory. The mapped file of SQLite is not counted, because the system
/// can reclaim it.
async fn measured(what: &str, work: impl Future<Output = u64>) {
    let (over, before, started) = (Arc::new(AtomicBool::new(false)), memory(), Instant::now());
    let ended = Arc::clone(&over);
    let sampler = std::thread::spawn(move || {
        let mut most = 0;
        while !ended.load(Ordering::Relaxed) {
            most = memory().max(most);
            std::thread::sleep(Duration::from_millis(10));
        }
        most
    });
    let count = work.await;
    let took = started.elapsed();
    over.store(true, Ordering::Relaxed);
    println!("{what:16} {count:7} in {took:9.3?}   {before:4} MiB before, {:4} MiB at most", sampler.join().unwrap());
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
