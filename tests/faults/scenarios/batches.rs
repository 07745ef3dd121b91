//! Batches: a worker is killed in the middle of some, and a bad job fails each batch that it is part of.

use anyhow::ensure;
use tokio::time::sleep;

use crate::{
    fault::Fault,
    stage::{Cast, Stage, words},
};

fn batching(publish: &str) -> Cast {
    let work = words("--batch 20 --concurrency 2");
    Cast { work, publish: words(publish), ..Cast::default() }
}

/// Each job of a batch works for 50 ms, so that a kill meets batches that run.
pub(crate) async fn batches_whose_worker_is_killed(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(batching("--work-ms 50")).await?;
    for _ in 0..stage.size.rounds * 2 {
        stage.play().await;
        let mut struck = stage.strike(Fault::WorkerKilled).await?;
        stage.recovered(&mut struck).await?;
    }
    stage.finish().await?;
    ensure!(stage.books.audit.cut_off() > 0, "no kill hit a batch");
    Ok(())
}

/// One of a thousand jobs is bad: exactly these are dead letters, and all jobs beside them are done.
pub(crate) async fn batches_with_one_bad_job_in_a_thousand(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(batching("--failing 0 --given-up 0 --delayed 0 --bad-one-of 1000")).await?;
    for _ in 0..stage.size.rounds {
        stage.play().await;
        sleep(stage.absence()).await;
        let mut struck = stage.strike(Fault::NetworkCut).await?;
        stage.recovered(&mut struck).await?;
    }
    stage.finish().await?;
    let figures = stage.figures();
    let (dead, bad) =
        (&figures.verdict.dead, stage.books.audit.confirmed().filter(|id| id.starts_with("bad.")).count());
    ensure!(bad > 0, "the load had no bad job");
    ensure!(dead.len() == 1 && dead.get("error") == Some(&bad), "{bad} bad jobs, and these dead letters: {dead:?}");
    Ok(())
}
