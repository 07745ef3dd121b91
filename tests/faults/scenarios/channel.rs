//! The broker ends connections, channels and consumers, but stays.

use anyhow::ensure;

use crate::stage::{Cast, Stage};

pub(crate) async fn operator_closes_connections(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds {
        stage.play().await;
        let since = stage.fault();
        stage.node.ctl(&["close_all_connections", "--vhost", "/", "maintenance"]).await?;
        stage.recovered(since).await?;
        stage.told_of_loss(since)?;
    }
    stage.finish().await
}

/// Has the node do something with the channel `C` and the tag `T` of every consumer of the load's queue.
async fn with_consumers(stage: &Stage<'_>, action: &str) -> anyhow::Result<()> {
    let queue = &stage.queue;
    let expression = format!(
        r#"[begin
            C = proplists:get_value(channel_pid, Consumer),
            T = proplists:get_value(consumer_tag, Consumer),
            {action}
        end || Consumer <- rabbit_amqqueue:consumers_all(<<"/">>),
               element(4, proplists:get_value(queue_name, Consumer)) =:= <<"{queue}">>]."#
    );
    stage.node.eval(&expression).await?;
    Ok(())
}

pub(crate) async fn channels_are_closed_with_406(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    let before = stage.reconnects();
    for _ in 0..stage.size.rounds * 2 {
        stage.play().await;
        let since = stage.fault();
        // As if the client had sent it.
        with_consumers(stage, "rabbit_channel:do(C, {'basic.ack', 999999999, false})").await?;
        stage.recovered(since).await?;
        stage.told_of_loss(since)?;
    }
    ensure!(stage.reconnects() == before, "a closed channel must not cost its connection");
    stage.finish().await
}

/// The broker tells that it has cancelled the consumers and, as RabbitMQ 4.3 does, keeps them attached until they are
/// cancelled by their clients too: what it still delivered to them would never be settled.
pub(crate) async fn consumers_are_cancelled(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    let before = stage.reconnects();
    for _ in 0..stage.size.rounds * 2 {
        stage.play().await;
        let since = stage.fault();
        with_consumers(stage, "rabbit_channel:send_command(C, {'basic.cancel', T, true})").await?;
        stage.recovered(since).await?;
        stage.told_of_loss(since)?;
    }
    ensure!(stage.reconnects() == before, "a cancelled consumer must not cost its connection");
    stage.finish().await
}
