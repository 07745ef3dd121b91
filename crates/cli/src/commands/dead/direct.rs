//! `leveret dead … --direct`: the dead letters of a queue in the broker.

use leveret::{Broker, Config};
use leveret_serve::dead::direct::{self, QueueSummary};
use leveret_store::DeadLetter;
use tokio::io::AsyncWrite;

use super::{
    super::shared::{bar, depth, reach},
    outcome::{failure, needs_yes, unless_closed},
    table,
};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json};

/// Connects, and counts the dead letters of the queue in the broker.
async fn open(config: &Config, queue: &str) -> Result<(Broker, u64), Failure> {
    let mut probe = reach(config).await?;
    let count = depth(&mut probe, &format!("{queue}.dead")).await;
    probe.close().await;
    Ok((Broker::amqp(config.clone()).map_err(|error| Failure::Usage(error.into()))?, count?))
}

pub(super) async fn list(config: &Config, queue: &str, limit: u32, output: Format) -> Result<Exit, Failure> {
    let (broker, count) = open(config, queue).await?;
    let limit = u16::try_from(limit.min(u32::try_from(count).unwrap_or(u32::MAX))).unwrap_or(u16::MAX);
    let letters = if limit == 0 { Vec::new() } else { direct::list(&broker, queue, limit).await.map_err(failure)? };
    broker.close().await;
    let letters: Vec<DeadLetter> = letters.into_iter().map(|letter| letter.about).collect();
    match output {
        Format::Json => print_json(&letters)?,
        Format::Table => print(&table::lines(&letters))?,
    }
    notice!("{} of {count}; they were requeued, and their order is not kept.", letters.len());
    Ok(Exit::Success)
}

pub(super) async fn replay(
    config: &Config,
    queue: &str,
    how: (Option<&str>, Option<f64>),
    output: Format,
) -> Result<Exit, Failure> {
    let (broker, count) = open(config, queue).await?;
    let bar = bar(count);
    let summary = direct::replay(&broker, queue, how, count, |summary| bar.set_position(summary.done)).await;
    bar.finish_and_clear();
    broker.close().await;
    report("replayed", count, &summary.map_err(failure)?, output)
}

pub(super) async fn export(config: &Config, queue: &str, out: impl AsyncWrite + Unpin) -> Result<Exit, Failure> {
    let (broker, count) = open(config, queue).await?;
    let bar = bar(count);
    let exported = direct::export(&broker, queue, count, out, |summary| bar.set_position(summary.done)).await;
    bar.finish_and_clear();
    broker.close().await;
    let Some(QueueSummary { done, .. }) = unless_closed(exported)? else { return Ok(Exit::Success) };
    notice!("{done} of {count} dead letters exported; they were requeued, and their order is not kept.");
    Ok(if done >= count { Exit::Success } else { Exit::Problems })
}

pub(super) async fn purge(config: &Config, queue: &str, yes: bool, output: Format) -> Result<Exit, Failure> {
    let (broker, count) = open(config, queue).await?;
    notice!("To be deleted without a way back: {count} dead letters of queue {queue:?}");
    needs_yes(yes)?;
    let bar = bar(count);
    let summary = direct::purge(&broker, queue, count, |summary| bar.set_position(summary.done)).await;
    bar.finish_and_clear();
    broker.close().await;
    report("purged", count, &summary.map_err(failure)?, output)
}

fn report(what: &str, count: u64, summary: &QueueSummary, output: Format) -> Result<Exit, Failure> {
    match output {
        Format::Json => print_json(summary)?,
        Format::Table => {
            print(&format!("{} of {count} dead letters {what}; {} were requeued.\n", summary.done, summary.kept))?;
            for reason in &summary.reasons {
                notice!("  {}", one_line(reason, 1024));
            }
        }
    }
    Ok(if summary.done >= count { Exit::Success } else { Exit::Problems })
}
