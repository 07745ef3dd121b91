//! The worker processes fail.

use crate::stage::{Cast, Stage};

pub(crate) async fn workers_are_killed(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds * 3 {
        stage.play().await;
        let index = stage.random.usize(..stage.workers.len());
        let since = stage.fault();
        stage.workers[index].process.sigkill();
        stage.retire(index);
        let next = stage.new_worker().await;
        stage.workers.push(next);
        stage.recovered(since).await?;
    }
    stage.finish().await
}
