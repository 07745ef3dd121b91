//! The broker does not know its clients yet.

use std::time::Duration;

use anyhow::ensure;
use leveret_harness::{Permissions, unique};
use tokio::time::sleep;

use crate::stage::{Cast, Stage};

pub(crate) async fn credentials_are_wrong_at_first(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let user = unique("late");
    stage.urls = vec![stage.node.url_for(&user, "secret", "/")];
    stage.enter(Cast::default()).await;
    refused(stage, "ACCESS_REFUSED").await?;
    stage.node.add_user(&user, "secret", "/", Permissions::ALL).await?;
    // A refused login is retried after delays that double, up to this.
    stage.size.recovery += Duration::from_secs(30);
    welcome(stage).await
}

pub(crate) async fn vhost_is_missing_at_first(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let vhost = unique("late");
    stage.urls = vec![stage.node.url_for("guest", "guest", &vhost)];
    stage.raw_urls.clone_from(&stage.urls);
    stage.enter(Cast::default()).await;
    refused(stage, &vhost).await?;
    stage.node.add_vhost(&vhost).await?;
    welcome(stage).await
}

/// Checks that every process waits, is not ready, and has logged the reason once.
async fn refused(stage: &mut Stage<'_>, why: &str) -> anyhow::Result<()> {
    let said = |stage: &Stage<'_>| stage.workers.iter().all(|worker| worker.process.count(why) > 0);
    stage.until("every worker has logged why it cannot connect", said).await?;
    sleep(stage.size.absence * 2).await;
    for worker in &stage.workers {
        let said = worker.process.count(why);
        ensure!(said <= 2, "worker {} said {said} times that it cannot connect", worker.id());
        ensure!(!worker.watch.last().ready, "worker {} is ready without a connection", worker.id());
    }
    Ok(())
}

async fn welcome(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let mut struck = stage.struck();
    stage.recovered(&mut struck).await?;
    for worker in &stage.workers {
        ensure!(worker.watch.last().reconnects == 0, "a connection that never was is not a lost one");
    }
    stage.finish().await
}
