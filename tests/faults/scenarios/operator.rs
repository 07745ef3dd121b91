//! Operations of operators on a queue under load.

use std::time::Duration;

use anyhow::ensure;
use leveret_tests::load::{End, Load, job_id, now_us};

use crate::{
    prober::connect,
    stage::{Cast, PREFETCH, Stage},
};

/// Jobs that were confirmed this shortly before a deletion may have been in the queue.
const IN_QUEUE: Duration = Duration::from_secs(5);
/// RabbitMQ confirms messages that it was handling while the queue was being deleted.
const UNDER_WAY: Duration = Duration::from_millis(500);

pub(crate) async fn queue_is_deleted(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    let mut deletions = Vec::new();
    for _ in 0..stage.size.rounds {
        stage.play().await;
        let mut struck = stage.struck();
        let raw = connect(&stage.raw_urls).await?;
        raw.delete_queue(&stage.queue).await?;
        deletions.push(now_us());
        stage.recovered(&mut struck).await?;
    }
    stage.logged_loss(deletions.len())?;
    let (before, after) = (IN_QUEUE.as_micros() as u64, UNDER_WAY.as_micros() as u64);
    stage.finish_except(|_, at| deletions.iter().any(|gone| (gone - before..gone + after).contains(&at))).await?;
    // Workers keep the queue short: at each deletion it held their unacknowledged jobs and the jobs that arrived
    // meanwhile.
    let under_way = stage.size.rate as f64 * UNDER_WAY.as_secs_f64();
    let most = deletions.len() * (stage.workers.len() * PREFETCH + under_way as usize);
    let deleted = stage.figures().deleted;
    ensure!(deleted <= most, "{deleted} jobs are gone, and the queues held {most} at most");
    Ok(())
}

/// The broker times a long job out and delivers it to another worker, up to 4.2 by closing the whole channel. The good
/// jobs around it must not suffer, and the long one must end.
pub(crate) async fn consumer_timeout_strikes(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    set_consumer_timeout(stage, 2_000, 500).await?;
    stage.begin(Cast::default()).await?;
    for round in 0..stage.size.rounds {
        stage.play().await;
        let mut struck = stage.struck();
        let before = logged(stage);
        let job = Load { made_us: now_us(), work_ms: 5_000, fails: 0, end: End::Done };
        let id = job_id(End::Done, false, &format!("long-{round}"));
        stage.publish(&job, &id).await?;
        stage.until("the timeout strikes", |stage| logged(stage) > before).await?;
        stage.until("the long job comes to an end", |stage| stage.books.audit.has_ended(&id)).await?;
        stage.recovered(&mut struck).await?;
    }
    set_consumer_timeout(stage, 1_800_000, 60_000).await?;
    stage.finish().await
}

/// Returns how often the workers have lost a consumer.
fn logged(stage: &Stage<'_>) -> usize {
    stage.workers.iter().map(|worker| worker.process.count("lost the consumer")).sum()
}

/// Sets the timeout of channels that are opened from now on.
async fn set_consumer_timeout(stage: &Stage<'_>, timeout_ms: u64, tick_ms: u64) -> anyhow::Result<()> {
    let set = format!(
        "application:set_env(rabbit, consumer_timeout, {timeout_ms}), \
         application:set_env(rabbit, channel_tick_interval, {tick_ms})."
    );
    stage.node.eval(&set).await?;
    Ok(())
}
