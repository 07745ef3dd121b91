//! The broker itself goes away.

use tokio::time::sleep;

use crate::stage::{Cast, Stage};

pub(crate) async fn broker_is_killed(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds {
        stage.play().await;
        let since = stage.fault();
        stage.node.kill9().await;
        sleep(stage.absence()).await;
        stage.node.restart().await;
        stage.recovered(since).await?;
        stage.told_of_loss(since)?;
    }
    stage.finish().await
}

pub(crate) async fn broker_is_restarted(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds.div_ceil(2) {
        stage.play().await;
        let since = stage.fault();
        stage.node.restart().await;
        stage.recovered(since).await?;
        stage.told_of_loss(since)?;
    }
    stage.finish().await
}
