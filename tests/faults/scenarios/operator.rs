//! What operators do to a queue under load.

use std::time::Duration;

use leveret_tests::load::{End, Ledger, Load, job_id, now_us};

use crate::stage::{Cast, Stage};

/// Jobs that were confirmed so shortly before a deletion may have been in the queue.
const IN_QUEUE: Duration = Duration::from_secs(5);
/// RabbitMQ confirms what it was handling while the queue was being deleted.
const UNDER_WAY: Duration = Duration::from_millis(500);

pub(crate) async fn queue_is_deleted(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    let mut deletions = Vec::new();
    for _ in 0..stage.size.rounds {
        stage.play().await;
        stage.count_fault();
        let raw = stage.raw().await?;
        raw.delete_queue(&stage.queue).await?;
        deletions.push(now_us());
        stage.recovered(now_us()).await?;
    }
    let (before, after) = (IN_QUEUE.as_micros() as u64, UNDER_WAY.as_micros() as u64);
    stage.finish_except(|at| deletions.iter().any(|gone| (gone - before..gone + after).contains(&at))).await
}

/// The broker takes a long job for lost and gives it to another worker, up to 4.2 by closing the whole channel. The good
/// jobs around it must not suffer, and the long one comes to an end.
pub(crate) async fn consumer_timeout_strikes(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    set_consumer_timeout(stage, 2_000, 500).await?;
    stage.begin(Cast::default()).await?;
    let raw = stage.raw().await?;
    let ledger = Ledger::open(&stage.books.receipts())?;
    for round in 0..stage.size.rounds {
        stage.play().await;
        stage.count_fault();
        let job = Load { made_us: now_us(), work_ms: 5_000, fails: 0, end: End::Done };
        let id = job_id(End::Done, false, &format!("long-{round}"));
        stage.publish_raw(&raw, &ledger, &job, &id).await?;
        stage.until("the long job comes to an end", |stage| stage.books.audit.has_ended(&id)).await?;
        stage.recovered(now_us()).await?;
    }
    set_consumer_timeout(stage, 1_800_000, 60_000).await?;
    stage.finish().await
}

/// For channels that are opened from now on.
async fn set_consumer_timeout(stage: &Stage<'_>, timeout_ms: u64, tick_ms: u64) -> anyhow::Result<()> {
    let set = format!(
        "application:set_env(rabbit, consumer_timeout, {timeout_ms}), \
         application:set_env(rabbit, channel_tick_interval, {tick_ms})."
    );
    stage.node.eval(&set).await?;
    Ok(())
}
