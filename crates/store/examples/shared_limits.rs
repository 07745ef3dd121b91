//! Measures the cost of limits that are not reached: `cargo run --release -p leveret-store --example shared_limits
//! [URL]`.
//!
//! The jobs do nothing and the broker is in memory, so that only the worker's own work is measured.
#![expect(clippy::print_stdout, reason = "what it measured is its output")]

use std::time::{Duration, Instant};

use leveret::{
    Broker, Context, JobResult, Queue, Rate, Worker,
    testing::{idle, start},
};
use leveret_store::Store;

const JOBS: usize = 100_000;

#[derive(serde::Serialize, serde::Deserialize)]
struct Nothing(u64);

impl leveret::Job for Nothing {
    const NAME: &'static str = "nothing";
    const QUEUE: &'static str = "nothing";
}

async fn nothing(_: Nothing, _: Context<()>) -> JobResult {
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let url = std::env::args().nth(1).unwrap_or_else(|| folder.path().join("leveret.db").display().to_string());
    let store = Store::open(&url).await?;
    let far = Rate::per_second(10_000_000);
    for round in 1..=3 {
        println!("round {round}");
        measure("no limit", |worker| worker).await?;
        measure("rate", |worker| worker.rate(far.burst(1_000))).await?;
        measure("places by key", |worker| worker.concurrency_per(|job: &Nothing| job.0 % 100, 1_000)).await?;
        measure("shared rate", |worker| worker.limit_store(store.clone()).shared_rate("far", far)).await?;
        measure("shared places", |worker| worker.limit_store(store.clone()).shared_concurrency("far", 10_000)).await?;
    }
    Ok(())
}

async fn measure(what: &str, set: impl FnOnce(Worker<()>) -> Worker<()>) -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::memory();
    let worker = || Worker::new(()).queue(Queue::new("nothing").concurrency(100));
    // It declares the queue.
    start(worker().handle(nothing), &broker).await?.stop().await?;
    let jobs: Vec<_> = (0..JOBS as u64).map(Nothing).collect();
    for published in broker.publisher().publish_all(&jobs).await {
        published?;
    }
    let started = Instant::now();
    let running = start(set(worker().handle(nothing)), &broker).await?;
    idle(&broker).await;
    let took = started.elapsed().max(Duration::from_millis(1));
    running.stop().await?;
    println!("{what:>16}: {:>9.0} jobs/s", JOBS as f64 / took.as_secs_f64());
    Ok(())
}
