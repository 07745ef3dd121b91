//! A worker as a user builds it, with cargo's default release profile. `leveret-bench instructions --user-build PROGRAM` counts
//! its instructions per job next to those of the same worker in the benchmark's own program.

use std::{
    error::Error,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use leveret::{Broker, Config, Context, Job, JobResult, Next, Queue, RetryPolicy, Worker};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    filter::{LevelFilter, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The assignment of the benchmark, as far as this worker knows it.
#[derive(Deserialize)]
enum Assignment {
    Consume(Consume),
}

#[derive(Deserialize)]
struct Consume {
    url: String,
    queues: Vec<String>,
    prefetch: u16,
    concurrency: u16,
    inline_budget: Duration,
    jobs: u64,
}

#[derive(Serialize, Deserialize, Job)]
#[job(name = "bench.mail", queue = "leveret-bench")]
struct Mail {
    number: u64,
    sent_us: u64,
    to: String,
    subject: String,
    body: String,
}

struct Counted {
    done: AtomicU64,
    jobs: u64,
    finished: CancellationToken,
}

async fn handle(_: Mail, ctx: Context<Counted>) -> JobResult {
    let Counted { done, jobs, finished } = ctx.state();
    if done.fetch_add(1, Ordering::Relaxed) + 1 == *jobs {
        finished.cancel();
    }
    Ok(())
}

async fn pass_on(ctx: Context<Counted>, next: Next<Counted>) -> JobResult {
    next.run(ctx).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let assignment = std::env::args().nth(2).ok_or("usage: user-worker --child ASSIGNMENT")?;
    let Assignment::Consume(Consume { url, queues, prefetch, concurrency, inline_budget, jobs }) =
        serde_json::from_str(&assignment)?;
    // As the benchmark's own worker.
    let (info, no_traces) = (LevelFilter::INFO, filter_fn(|of| of.target() != "leveret::trace"));
    tracing_subscriber::registry().with(info).with(no_traces).init();
    let broker = Broker::amqp(Config { amqp_url: vec![url], inline_budget, ..Config::default() })?;
    let finished = CancellationToken::new();
    let counted = Counted { done: AtomicU64::new(0), jobs, finished: finished.clone() };
    let retry = RetryPolicy::fixed(Duration::from_millis(100));
    let queue = Queue::new(&queues[0]).prefetch(prefetch).concurrency(concurrency).retry(retry);
    let worker = Worker::new(counted).queue(queue).handle(handle).middleware(pass_on);
    worker.run(&broker, async move { finished.cancelled().await }).await?;
    broker.close().await;
    Ok(())
}
