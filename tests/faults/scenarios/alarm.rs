//! The broker accepts nothing, for a short or a long time.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use leveret_harness::Proxy;
use leveret_tests::load::now_us;
use tokio::time::sleep;

use crate::{
    actor::Actor,
    fault::Fault,
    stage::{Cast, Stage, words},
};

/// Most growth of a waiting process: each attempt to connect has buffers of 8 MiB, which two connections may come to
/// use fully. If each attempt leaked its own, the growth would be ten times as much.
const GROWTH_KIB: u64 = 20 * 1024;
/// Most lines that it logs each second.
const LINES_A_SECOND: usize = 5;

pub(crate) async fn memory_runs_out(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    alarm(stage, Fault::MemoryAlarm).await
}

pub(crate) async fn disk_runs_out(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    alarm(stage, Fault::DiskAlarm).await
}

/// An alarm costs no connection and doubles no job; publishing waits, and is reported as blocked.
async fn alarm(stage: &mut Stage<'_>, fault: Fault) -> anyhow::Result<()> {
    stage.begin(Cast { publish: words("--failing 50"), ..Cast::default() }).await?;
    let before = stage.reconnects();
    for _ in 0..stage.size.rounds {
        stage.play().await;
        let mut struck = stage.strike(fault).await?;
        let over = now_us();
        stage.recovered(&mut struck).await?;
        let since = struck.began();
        for actor in stage.workers.iter().chain(&stage.publishers) {
            let reported = actor.watch.since(since).iter().any(|sample| sample.blocked > 0);
            ensure!(reported, "process {} never reported that it is blocked", actor.id());
        }
        waited_calmly(stage, since, over)?;
        stage
            .until("no process is blocked any more", |stage| everyone(stage).all(|a| a.watch.last().blocked == 0))
            .await?;
    }
    ensure!(stage.reconnects() == before, "an alarm must not cost a connection");
    stage.finish().await?;
    let duplicates = stage.figures().verdict.duplicates;
    ensure!(duplicates.is_empty(), "an alarm must not double a job: {duplicates:?}");
    Ok(())
}

pub(crate) async fn broker_is_absent(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast { publish: words("--failing 50"), ..Cast::default() }).await?;
    stage.play().await;
    let mut struck = stage.struck();
    for actor in everyone(stage) {
        actor.network(Proxy::refuse);
        actor.network(Proxy::cut);
    }
    sleep(stage.size.absence * 6).await;
    struck.knowable = now_us();
    everyone(stage).for_each(|actor| actor.network(Proxy::accept));
    stage.recovered(&mut struck).await?;
    stage.reported_loss(&struck)?;
    stage.counted_loss(&struck)?;
    waited_calmly(stage, struck.began(), struck.knowable)?;
    stage.finish().await
}

fn everyone<'s>(stage: &'s Stage<'_>) -> impl Iterator<Item = &'s Actor> {
    stage.workers.iter().chain(&stage.publishers)
}

/// Checks that no process grows while it waits, or logs all the time.
fn waited_calmly(stage: &Stage<'_>, from: u64, until: u64) -> anyhow::Result<()> {
    for actor in everyone(stage) {
        let mut samples = actor.watch.since(from);
        samples.retain(|sample| sample.at_us <= until);
        // Work in progress when the outage began may still take memory, and be logged.
        let settled = samples.split_off(samples.len() / 3);
        let (first, last) = settled.first().zip(settled.last()).context("no sample while it waited")?;
        let (rss, threads) = (last.rss_kib.saturating_sub(first.rss_kib), last.threads.saturating_sub(first.threads));
        ensure!(rss < GROWTH_KIB, "process {} grew by {rss} KiB while it waited", actor.id());
        ensure!(threads <= 4, "process {} got {threads} more threads while it waited", actor.id());
        let waited = Duration::from_micros(last.at_us - first.at_us).as_secs() as usize + 1;
        let logged = last.lines - first.lines;
        ensure!(logged <= LINES_A_SECOND * waited, "process {} logged {logged} lines in {waited} s", actor.id());
    }
    Ok(())
}
