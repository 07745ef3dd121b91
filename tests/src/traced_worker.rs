//! A worker in a process of its own, for tests that follow its jobs by their traces: `traced.first` fails until it is
//! replayed, and then publishes `traced.second`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use leveret::{
    Broker, Config, Context, Job, JobError, JobResult, Queue, RetryPolicy, Worker,
    reader::{QueueReader, Source},
    shutdown_signal,
    telemetry::Telemetry,
};
use serde::{Deserialize, Serialize};
use tracing::Instrument;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    telemetry: Telemetry,
    /// The queue to consume
    #[arg(long)]
    queue: String,
    /// Publish a first job, with this id
    #[arg(long)]
    publish: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct First {}

impl Job for First {
    const NAME: &'static str = "traced.first";
    const QUEUE: &'static str = "traced";
}

#[derive(Serialize, Deserialize)]
struct Second {}

impl Job for Second {
    const NAME: &'static str = "traced.second";
    const QUEUE: &'static str = "traced";
}

/// True once the first job has been replayed.
type Replayed = Arc<AtomicBool>;

async fn first(_: First, ctx: Context<Replayed>) -> JobResult {
    if !ctx.state().load(Ordering::Relaxed) {
        return Err("not before it is replayed".into());
    }
    let second = ctx.publisher().publish(&Second {}).queue(ctx.queue());
    async { second.await }.instrument(tracing::info_span!("prepare")).await?;
    Ok(())
}

async fn second(_: Second, ctx: Context<Replayed>) -> Result<(), JobError> {
    // From a task outside of any span, as handlers may do.
    let third = ctx.publisher().publish_raw("traced.third", ctx.queue(), "{}");
    tokio::spawn(third.into_future()).await??;
    tracing::info!("the second job is done");
    Ok(())
}

async fn replay(broker: Broker, queue: String, replayed: Replayed) -> anyhow::Result<()> {
    let mut feed = QueueReader::new(&broker, Source::DeadLetters(queue.clone()), 1)?;
    loop {
        let batch = feed.next(1).await;
        replayed.store(true, Ordering::Relaxed);
        for read in batch.messages() {
            let name = read.message().dead_letter().job;
            if name.as_deref() == Some(First::NAME) {
                broker.publisher().replay(read.message(), &queue).await?;
            }
            tracing::info!("a dead letter of {name:?}");
        }
        feed.ack(batch);
    }
}

async fn publish(broker: Broker, queue: String, id: String) {
    // Until the worker has declared the queue.
    while let Err(error) = broker.publisher().publish(&First {}).queue(&queue).id(&id).await {
        tracing::info!(%error, "not published yet");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let _telemetry = arguments.telemetry.init("traced-worker")?;
    let (broker, replayed) = (Broker::amqp(arguments.config)?, Replayed::default());
    let queue = Queue::new(&arguments.queue).retry(RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(3));
    if let Some(id) = arguments.publish {
        tokio::spawn(publish(broker.clone(), arguments.queue.clone(), id));
    }
    tokio::spawn(replay(broker.clone(), arguments.queue.clone(), Arc::clone(&replayed)));
    let worker = Worker::new(replayed)
        .queue(queue)
        .handle_with(first, |h| h.queue(&arguments.queue))
        .handle_with(second, |h| h.queue(&arguments.queue));
    worker.run(&broker, shutdown_signal()).await?;
    broker.close().await;
    Ok(())
}
