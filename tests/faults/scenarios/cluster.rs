//! A cluster loses one of its three nodes.

use leveret_harness::{Cluster, Node, NodeOptions};
use tokio::time::sleep;

use crate::stage::{Cast, Stage};

/// The majority goes on; those who were connected to the lost node go to another.
pub(crate) async fn queue_leader_is_lost(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::start(3, NodeOptions::default()).await;
    stage.urls = cluster.nodes().iter().map(Node::url).collect();
    stage.raw_urls.clone_from(&stage.urls);
    stage.begin(Cast::default()).await?;
    cluster.sync().await?;
    for _ in 0..stage.size.rounds {
        stage.play().await;
        let leader = cluster.leader(&stage.queue).await;
        let mut struck = stage.struck();
        leader.kill9().await;
        stage.recovered(&mut struck).await?;
        sleep(stage.absence()).await;
        leader.restart().await;
        cluster.await_members(&stage.queue).await;
    }
    stage.finish().await
}
