//! The faults that end by themselves: each is struck, lasts a while, and is over when [`Fault::strike`] returns.

use std::time::Duration;

use anyhow::ensure;
use leveret_harness::Proxy;
use leveret_tests::load::now_us;
use tokio::time::sleep;

use crate::{
    actor::Actor,
    stage::{LONG, Stage},
};

/// Long enough for a sample to see it.
const SHORTLY: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    BrokerKilled,
    BrokerRestarted,
    /// The process is alive and silent, as on a machine that swaps.
    BrokerFrozen,
    /// Every connection is reset.
    NetworkCut,
    /// Nothing passes for longer than the heartbeats, then everything does.
    NetworkPartitioned,
    /// The connections lead nowhere; new ones work.
    ConnectionsHalfOpen,
    /// A byte at a time, or late, or both; and a reset in the middle of a frame.
    NetworkSlow,
    /// Through the broker's tools.
    ConnectionsClosed,
    /// By an ack of a tag that was never delivered, as if the clients had sent it.
    ChannelsClosed,
    /// The broker reports it and, as RabbitMQ 4.3 does, keeps the consumers attached until their clients cancel them
    /// too.
    ConsumersCancelled,
    MemoryAlarm,
    DiskAlarm,
    WorkerKilled,
    WorkerTerminated,
    /// The process is stopped for longer than the heartbeats.
    WorkerFrozen,
}

impl Fault {
    /// The faults that a soak mixes.
    pub(crate) const ALL: [Self; 15] = [
        Self::BrokerKilled,
        Self::BrokerRestarted,
        Self::BrokerFrozen,
        Self::NetworkCut,
        Self::NetworkPartitioned,
        Self::ConnectionsHalfOpen,
        Self::NetworkSlow,
        Self::ConnectionsClosed,
        Self::ChannelsClosed,
        Self::ConsumersCancelled,
        Self::MemoryAlarm,
        Self::DiskAlarm,
        Self::WorkerKilled,
        Self::WorkerTerminated,
        Self::WorkerFrozen,
    ];

    /// Strikes, and returns when the workers could detect the loss, if that is later than its beginning.
    pub(crate) async fn strike(self, stage: &mut Stage<'_>) -> anyhow::Result<Option<u64>> {
        let heartbeats = stage.size.heartbeat * 2;
        let noticed = now_us() + u64::try_from(heartbeats.as_micros())?;
        match self {
            Self::BrokerKilled => {
                stage.node.sync().await?;
                stage.node.kill9().await;
                sleep(stage.absence()).await;
                stage.node.restart().await;
            }
            Self::BrokerRestarted => stage.node.restart().await,
            Self::BrokerFrozen => {
                stage.node.freeze();
                sleep(stage.absence()).await;
                stage.node.thaw();
            }
            Self::NetworkCut => {
                everyone(stage).for_each(|actor| actor.network(Proxy::refuse));
                everyone(stage).for_each(|actor| actor.network(Proxy::cut));
                sleep(SHORTLY).await;
                everyone(stage).for_each(|actor| actor.network(Proxy::accept));
            }
            Self::NetworkPartitioned => {
                everyone(stage).for_each(|actor| actor.network(Proxy::freeze));
                // Clients look for silence now and then, at least once in a heartbeat.
                sleep(heartbeats + stage.size.heartbeat + stage.absence()).await;
                everyone(stage).for_each(|actor| actor.network(Proxy::thaw));
            }
            Self::ConnectionsHalfOpen => everyone(stage).for_each(|actor| actor.network(Proxy::strand)),
            Self::NetworkSlow => slow(stage).await,
            Self::ConnectionsClosed => {
                stage.node.ctl(&["close_all_connections", "--vhost", "/", "maintenance"]).await?;
            }
            Self::ChannelsClosed => {
                let action = "gen_server2:cast(C, {method, {'basic.ack', 999999999, false}, none, noflow})";
                return with_consumers(stage, action).await.map(Some);
            }
            Self::ConsumersCancelled => {
                let action = "gen_server2:cast(C, {command, {'basic.cancel', T, true}})";
                return with_consumers(stage, action).await.map(Some);
            }
            Self::MemoryAlarm => alarm(stage, "memory").await?,
            Self::DiskAlarm => alarm(stage, "disk").await?,
            Self::WorkerKilled | Self::WorkerTerminated | Self::WorkerFrozen => self.strike_a_worker(stage).await?,
        }
        Ok(match self {
            Self::NetworkPartitioned => Some(noticed.max(now_us())),
            Self::ConnectionsHalfOpen => Some(noticed),
            // A new process is started, a network is healed, an alarm is cleared.
            _ => Some(now_us()).filter(|_| self.is_nothing_to_others()),
        })
    }

    /// Returns whether other clients can use the broker during the fault, so that only its end counts.
    fn is_nothing_to_others(self) -> bool {
        use Fault::{NetworkCut, NetworkSlow, WorkerFrozen, WorkerKilled, WorkerTerminated};
        matches!(self, NetworkCut | NetworkSlow | WorkerFrozen | WorkerKilled | WorkerTerminated)
    }

    async fn strike_a_worker(self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let victim = stage.victim();
        let process = std::sync::Arc::clone(&stage.workers[victim].process);
        match self {
            Self::WorkerFrozen => {
                process.sigstop();
                sleep(stage.size.heartbeat * 4).await;
                process.sigcont();
                return Ok(());
            }
            Self::WorkerTerminated => {
                process.sigterm();
                let status = process.wait_exit(LONG).await;
                ensure!(status.success(), "a worker ended with {status}");
            }
            _ => process.sigkill(),
        }
        stage.replace(victim).await;
        Ok(())
    }
}

/// Raises the broker's alarm for a resource, and clears it. (Its limits cannot be set on a node that cannot measure the
/// resource, such as one in a root file system of its own.)
async fn alarm(stage: &Stage<'_>, resource: &str) -> anyhow::Result<()> {
    let alarm = format!("{{resource_limit, {resource}, node()}}");
    stage.node.eval(&format!("rabbit_alarm:set_alarm({{{alarm}, []}}).")).await?;
    sleep(stage.size.absence).await;
    stage.node.eval(&format!("rabbit_alarm:clear_alarm({alarm}).")).await?;
    Ok(())
}

fn everyone<'s>(stage: &'s Stage<'_>) -> impl Iterator<Item = &'s Actor> {
    stage.workers.iter().chain(&stage.publishers)
}

async fn slow(stage: &mut Stage<'_>) {
    let (delay, bytes) = match stage.random.u8(0..3) {
        0 => (0, 1),
        1 => (stage.random.u64(20..200), 0),
        _ => (stage.random.u64(1..20), stage.random.usize(2..2_000)),
    };
    for actor in everyone(stage) {
        actor.network(|proxy| proxy.delay(Duration::from_millis(delay)));
        actor.network(|proxy| proxy.throttle(bytes));
    }
    sleep(stage.size.absence).await;
    let victim = stage.victim();
    stage.workers[victim].network(Proxy::cut);
    for actor in everyone(stage) {
        actor.network(|proxy| proxy.delay(Duration::ZERO));
        actor.network(|proxy| proxy.throttle(0));
    }
}

/// Makes the node run a command with the channel `C` and the tag `T` of every consumer of the load's queue; returns
/// when.
async fn with_consumers(stage: &Stage<'_>, action: &str) -> anyhow::Result<u64> {
    let queue = &stage.queue;
    let expression = format!(
        r#"[begin
            C = proplists:get_value(channel_pid, Consumer),
            T = proplists:get_value(consumer_tag, Consumer),
            _ = T,
            {action}
        end || Consumer <- rabbit_amqqueue:consumers_all(<<"/">>),
               element(4, proplists:get_value(queue_name, Consumer)) =:= <<"{queue}">>],
        os:system_time(microsecond)."#
    );
    Ok(stage.node.eval(&expression).await?.trim().parse()?)
}
