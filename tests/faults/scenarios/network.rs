//! The network between the processes and the broker fails.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    actor::Actor,
    stage::{Cast, Stage},
};

fn everyone<'s>(stage: &'s Stage<'_>) -> impl Iterator<Item = &'s Actor> {
    stage.workers.iter().chain(&stage.publishers)
}

/// When a silence that began then must have been noticed: nothing received for twice the heartbeat.
fn noticed(stage: &Stage<'_>, since: u64) -> u64 {
    since + 2 * stage.size.heartbeat.as_micros() as u64
}

pub(crate) async fn network_is_cut(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds * 3 {
        stage.play().await;
        let since = stage.fault();
        everyone(stage).for_each(|actor| actor.proxy.cut());
        stage.recovered(since).await?;
        stage.told_of_loss(since)?;
    }
    stage.finish().await
}

pub(crate) async fn network_swallows_everything(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds.div_ceil(2) {
        stage.play().await;
        let since = stage.fault();
        everyone(stage).for_each(|actor| actor.proxy.freeze());
        sleep(stage.size.heartbeat * 2 + stage.size.heartbeat.mul_f64(stage.random.f64())).await;
        everyone(stage).for_each(|actor| actor.proxy.thaw());
        let healed = leveret_tests::load::now_us();
        stage.recovered(noticed(stage, since).max(healed)).await?;
        stage.told_of_loss(since)?;
    }
    stage.finish().await
}

pub(crate) async fn connections_are_half_open(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds {
        stage.play().await;
        let since = stage.fault();
        everyone(stage).for_each(|actor| actor.proxy.strand());
        stage.recovered(noticed(stage, since)).await?;
        stage.told_of_loss(since)?;
    }
    stage.finish().await
}

pub(crate) async fn network_is_slow(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for round in 0..stage.size.rounds * 2 {
        stage.play().await;
        let since = stage.fault();
        let (delay, bytes) = match round % 3 {
            0 => (Duration::ZERO, 1),
            1 => (Duration::from_millis(stage.random.u64(20..200)), 0),
            _ => (Duration::from_millis(stage.random.u64(1..20)), stage.random.usize(2..2_000)),
        };
        for actor in everyone(stage) {
            actor.proxy.delay(delay);
            actor.proxy.throttle(bytes);
        }
        sleep(stage.size.absence).await;
        // Wherever in a frame that may be.
        let index = stage.random.usize(..stage.workers.len());
        stage.workers[index].proxy.cut();
        for actor in everyone(stage) {
            actor.proxy.delay(Duration::ZERO);
            actor.proxy.throttle(0);
        }
        stage.recovered(since).await?;
    }
    stage.finish().await
}
