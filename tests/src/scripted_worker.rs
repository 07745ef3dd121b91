//! A worker of scripts in a process of its own, for tests that stop, kill or crash it.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use leveret::{Batching, Broker, Config, Queue, RetryPolicy, shutdown_signal, telemetry::Telemetry};
use leveret_tests::jobs::{Log, batch_worker, worker};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    telemetry: Telemetry,
    /// The queue to consume
    #[arg(long)]
    queue: String,
    /// The file to append a line to at each start and end of a run
    #[arg(long)]
    runs: PathBuf,
    #[arg(long, default_value_t = 16)]
    concurrency: u16,
    #[arg(long, default_value_t = 32)]
    prefetch: u16,
    /// The fixed delay of retries
    #[arg(long, default_value_t = 200)]
    retry_ms: u64,
    #[arg(long, default_value_t = 3)]
    max_attempts: u32,
    /// Handle batches of up to this many jobs, so many as the concurrency at once
    #[arg(long)]
    batch: Option<u16>,
    /// Consume only while no other worker does
    #[arg(long)]
    single_active: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let _telemetry = arguments.telemetry.init("scripted-worker")?;
    let broker = Broker::amqp(arguments.config)?;
    let health = broker.serve_health()?;
    tracing::info!("health at {}", health.address());
    let log = Log::to_file(&arguments.runs)?;
    let retry = RetryPolicy::fixed(Duration::from_millis(arguments.retry_ms)).max_attempts(arguments.max_attempts);
    let set = |queue: Queue| {
        let queue = queue.concurrency(arguments.concurrency).prefetch(arguments.prefetch).retry(retry);
        if arguments.single_active { queue.single_active() } else { queue }
    };
    let worker = match arguments.batch {
        Some(size) => batch_worker(&arguments.queue, set, Batching::up_to(size), &log),
        None => worker(&arguments.queue, set, &log),
    };
    worker.run(&broker, shutdown_signal()).await?;
    broker.close().await;
    Ok(())
}
