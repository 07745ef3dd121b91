//! A network that silently loses every packet, in both directions.

use anyhow::ensure;
use leveret_harness::Cable;
use leveret_tests::load::now_us;
use tokio::time::sleep;

use crate::{
    actor::Actor,
    stage::{Cast, Stage},
};

/// Longer than the heartbeats, so that the connection is closed and attempts to reconnect fail as well.
pub(crate) async fn packets_are_dropped(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let cable = Cable::lay()?;
    stage.begin(Cast { workers: 2, ..Cast::default() }).await?;
    let far = Actor::start_at(&cable, &stage.urls[0], &stage.worker_arguments(2)).await;
    stage.workers.push(far);
    stage.flowing().await?;
    for _ in 0..stage.size.rounds.div_ceil(2) {
        stage.play().await;
        let before = stage.reconnects();
        let mut struck = stage.struck();
        cable.unplug()?;
        sleep(stage.size.heartbeat * 2 + stage.size.absence * 2).await;
        cable.plug()?;
        struck.knowable = now_us();
        stage.recovered(&mut struck).await?;
        let after = stage.reconnects();
        ensure!(after[..2] == before[..2], "those who were not cut off must not notice: {before:?} then {after:?}");
        ensure!(after[2] > before[2], "it must have closed its connections: {before:?} then {after:?}");
    }
    stage.finish().await
}
