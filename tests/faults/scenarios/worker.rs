//! The workers fail.

use std::time::Duration;

use anyhow::ensure;
use leveret_tests::load::{End, Load, job_id, now_us};
use tokio::time::sleep;

use crate::{
    fault::Fault,
    stage::{Cast, LONG, Stage, words},
};

/// A kill may hit between the publish of a copy and its confirm, and between that and the ack.
pub(crate) async fn workers_are_killed_amid_retries(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let publish = words("--failing 90 --given-up 100 --work-ms 0");
    stage.begin(Cast { publish, ..Cast::default() }).await?;
    for _ in 0..stage.size.rounds * 5 {
        sleep(Duration::from_millis(stage.random.u64(50..400))).await;
        stage.strike(Fault::WorkerKilled).await?;
    }
    stage.flowing().await?;
    stage.finish().await
}

/// Orderly stops double no job.
pub(crate) async fn workers_are_terminated(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds * 3 {
        stage.play().await;
        let mut struck = stage.strike(Fault::WorkerTerminated).await?;
        stage.recovered(&mut struck).await?;
    }
    stage.finish().await?;
    let duplicates = stage.figures().verdict.duplicates;
    ensure!(duplicates.is_empty(), "an orderly stop must not double a job: {duplicates:?}");
    Ok(())
}

pub(crate) async fn workers_are_frozen(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds.div_ceil(2) {
        stage.play().await;
        let before: u64 = stage.reconnects().iter().sum();
        let mut struck = stage.strike(Fault::WorkerFrozen).await?;
        stage.recovered(&mut struck).await?;
        ensure!(stage.reconnects().iter().sum::<u64>() > before, "the broker must have closed the worker's connection");
    }
    stage.finish().await
}

/// Every worker that the job crashes is started again, as an orchestrator does, until the job is convicted. The good
/// jobs beside it are done.
pub(crate) async fn a_job_aborts_its_process(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for round in 0..stage.size.rounds.div_ceil(2) {
        stage.play().await;
        stage.figures.faults += 1;
        let job = Load { made_us: now_us(), work_ms: 20, fails: 0, end: End::Abort };
        let id = job_id(job.end, false, &round.to_string());
        stage.publish(&job, &id).await?;
        let crashes = replaced_until_convicted(stage, &id).await?;
        ensure!((1..=6).contains(&crashes), "{crashes} crashes until the job was convicted");
        stage.flowing().await?;
    }
    stage.finish().await?;
    let convicted = stage.figures().verdict.dead.get("crash_loop").copied();
    ensure!(convicted == Some(stage.size.rounds.div_ceil(2)), "{convicted:?} jobs convicted of a crash loop");
    Ok(())
}

async fn replaced_until_convicted(stage: &mut Stage<'_>, id: &str) -> anyhow::Result<usize> {
    let (mut crashes, deadline) = (0, tokio::time::Instant::now() + LONG);
    while !stage.books.audit.has_ended(id) {
        ensure!(tokio::time::Instant::now() < deadline, "not convicted after {crashes} crashes");
        if let Some(victim) = stage.workers.iter().position(|worker| worker.process.has_ended()) {
            crashes += 1;
            stage.replace(victim).await;
        }
        stage.take_kept().await?;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(crashes)
}
