//! The framework as its users configure it: typed handlers, a middleware, a timeout, metrics, and a span for each job.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use leveret::{Broker, Config, Context, JobResult, Next, Queue, RetryPolicy, Subscription, Worker};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, LevelFilter, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    assignment::{Consume, Consumer, Mail, Publish, Publisher, Work},
    broker::Kind,
    meter::Meter,
};

/// The delay of a retry: one hop in the delay ladder.
const RETRY: Duration = Duration::from_millis(100);
/// Jobs in one call of `publish_all`.
const CHUNK: u64 = 5_000;

struct BenchState {
    meter: Arc<Meter>,
    work: Work,
}

/// Consumes until all jobs are done.
pub(crate) async fn consume(assignment: Consume, meter: Arc<Meter>) -> Result<()> {
    // The same filter as leveret::telemetry without a collector.
    let (info, no_traces) = (LevelFilter::INFO, filter_fn(|of| of.target() != "leveret::trace"));
    if assignment.consumer == Consumer::LeveretLogging {
        let text = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
        tracing_subscriber::registry().with(text.with_filter(info.and(no_traces))).init();
    } else {
        tracing_subscriber::registry().with(info).with(no_traces).init();
    }
    let broker = open(&assignment.url, assignment.inline_budget)?;
    let mut worker = Worker::new(BenchState { meter: Arc::clone(&meter), work: assignment.work });
    for name in &assignment.queues {
        let Consume { prefetch, concurrency, .. } = assignment;
        let retry = RetryPolicy::fixed(RETRY).max_attempts(1_000_000);
        let queue = match assignment.kind {
            Kind::Quorum => Queue::new(name),
            Kind::Classic => Queue::existing(name),
            Kind::Subscription => {
                let subscription = Subscription::new(name).prefetch(prefetch).concurrency(concurrency).retry(retry);
                worker = worker.subscribe(subscription, handle);
                continue;
            }
        };
        worker = worker.queue(queue.prefetch(prefetch).concurrency(concurrency).retry(retry));
        worker = match assignment.work {
            Work::Compute(_) => worker.handle_blocking_with(compute, |h| h.queue(name)),
            _ => worker.handle_with(handle, |h| h.queue(name)),
        };
    }
    worker.middleware(pass_on).run(&broker, async move { meter.finished().await }).await?;
    broker.close().await;
    Ok(())
}

pub(crate) fn open(url: &str, inline_budget: Option<Duration>) -> Result<Broker> {
    let default = Config::default();
    let inline_budget = inline_budget.unwrap_or(default.inline_budget);
    Ok(Broker::amqp(Config { amqp_url: vec![url.to_owned()], inline_budget, ..default })?)
}

async fn pass_on(ctx: Context<BenchState>, next: Next<BenchState>) -> JobResult {
    next.run(ctx).await
}

async fn handle(mail: Mail, ctx: Context<BenchState>) -> JobResult {
    let BenchState { meter, work } = ctx.state();
    match work {
        Work::Yield => tokio::task::yield_now().await,
        Work::Sleep(time) => tokio::time::sleep(*time).await,
        Work::FailOnce(every) if ctx.attempt() == 1 && mail.number.is_multiple_of(*every) => {
            return Err("as the scenario says".into());
        }
        Work::FailAlways => {
            meter.count(mail.sent_us);
            return Err("as the scenario says".into());
        }
        Work::Nothing | Work::FailOnce(_) | Work::Compute(_) => {}
    }
    meter.count(mail.sent_us);
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "a handler's form")]
fn compute(mail: Mail, ctx: Context<BenchState>) -> JobResult {
    let BenchState { meter, work } = ctx.state();
    let Work::Compute(time) = *work else { return Ok(()) };
    let started = Instant::now();
    let mut sum = mail.number;
    while started.elapsed() < time {
        sum =
            (0..1_000).fold(sum, |sum, step| black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step)));
    }
    black_box(sum);
    meter.busy(started.elapsed());
    meter.count(mail.sent_us);
    Ok(())
}

/// Publishes all jobs, confirmed.
pub(crate) async fn publish(assignment: Publish, meter: &Meter) -> Result<()> {
    let broker = open(&assignment.url, None)?;
    let publisher = broker.publisher();
    let mails = |numbers: std::ops::Range<u64>| numbers.map(|number| Mail::new(number, assignment.bytes));
    if assignment.publisher == Publisher::LeveretAll {
        for first in (0..assignment.jobs).step_by(CHUNK as usize) {
            let mails: Vec<Mail> = mails(first..(first + CHUNK).min(assignment.jobs)).collect();
            for published in publisher.publish_all(&mails).await {
                published?;
                meter.count(0);
            }
        }
    } else {
        let window = if assignment.publisher == Publisher::LeveretPipelined { 1024 } else { 1 };
        let sending = mails(0..assignment.jobs).map(|mail| {
            let publish = publisher.publish(&mail).queue(&assignment.queue);
            async move {
                publish.await?;
                meter.count(mail.sent_us);
                anyhow::Ok(())
            }
        });
        stream::iter(sending).buffer_unordered(window).try_collect::<()>().await?;
    }
    broker.close().await;
    Ok(())
}
