//! One scenario for each fault. Those that need more than a strike and a recovery have their own files.

mod alarm;
mod batches;
mod cluster;
mod events;
mod login;
mod network;
mod operator;
mod publisher;
mod requests;
mod soak;
mod worker;
mod workflows;

use std::{future::Future, pin::Pin};

use anyhow::ensure;

use crate::{
    fault::Fault,
    stage::{Cast, Stage},
};

type Running<'s> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 's>>;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The event, in a few words.
    pub(crate) about: &'static str,
    pub(crate) run: for<'s> fn(&'s mut Stage<'_>) -> Running<'s>,
}

/// A scenario of its own function.
macro_rules! special {
    ($module:ident::$name:ident, $about:literal) => {
        Scenario { name: stringify!($name), about: $about, run: |stage| Box::pin($module::$name(stage)) }
    };
}

/// A scenario that strikes with one fault this many times in each round.
macro_rules! repeated {
    ($name:ident, $about:literal, $fault:ident, $times:literal, $shown:ident) => {
        Scenario {
            name: stringify!($name),
            about: $about,
            run: |stage| Box::pin(again_and_again(stage, Fault::$fault, $times, Shown::$shown)),
        }
    };
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    repeated!(broker_is_killed, "kill -9 and restart", BrokerKilled, 1.0, Connections),
    repeated!(broker_is_restarted, "orderly restart", BrokerRestarted, 0.5, Connections),
    repeated!(broker_is_frozen, "alive and silent for less than the heartbeats", BrokerFrozen, 1.0, Nothing),
    special!(cluster::queue_leader_is_lost, "one of three nodes killed, the one that leads the queue"),
    repeated!(network_is_cut, "every connection reset", NetworkCut, 3.0, Connections),
    repeated!(network_is_partitioned, "nothing passes for a while", NetworkPartitioned, 0.5, Connections),
    repeated!(connections_are_half_open, "connections that lead nowhere", ConnectionsHalfOpen, 0.5, Connections),
    special!(network::packets_are_dropped, "every packet of a worker lost (as root only)"),
    repeated!(network_is_slow, "bytes trickle, frames are torn", NetworkSlow, 2.0, Nothing),
    repeated!(connections_are_closed, "closed through the broker's tools", ConnectionsClosed, 1.0, Counts),
    repeated!(channels_are_closed, "406 after an ack of an unknown tag", ChannelsClosed, 2.0, Consumers),
    repeated!(consumers_are_cancelled, "basic.cancel sent by the broker", ConsumersCancelled, 2.0, Consumers),
    special!(operator::queue_is_deleted, "a queue deleted under load, and declared again"),
    special!(operator::consumer_timeout_strikes, "handlers that outlast the broker's consumer timeout"),
    special!(alarm::memory_runs_out, "memory alarm while jobs retry"),
    special!(alarm::disk_runs_out, "disk alarm while jobs retry"),
    special!(alarm::broker_is_absent, "no broker for a long time"),
    repeated!(workers_are_killed, "kill -9 of workers", WorkerKilled, 3.0, Nothing),
    special!(worker::workers_are_killed_amid_retries, "kill -9 while every job is being moved"),
    special!(worker::workers_are_terminated, "SIGTERM of workers"),
    special!(worker::workers_are_frozen, "SIGSTOP for longer than the heartbeats"),
    special!(worker::a_job_aborts_its_process, "a job that takes its worker down, amid good ones"),
    special!(publisher::publishers_lose_their_confirms, "connections cut between publish and confirm"),
    special!(login::credentials_are_wrong_at_first, "a user that comes late"),
    special!(login::vhost_is_missing_at_first, "a vhost that comes late"),
    special!(events::events_whose_subscriber_is_killed, "kill -9 of workers of two subscriptions"),
    special!(events::events_whose_subscription_is_deleted, "one of two subscriptions deleted under load"),
    special!(events::events_whose_subscription_has_no_quorum, "a node killed that one of two subscriptions needs"),
    special!(events::events_whose_log_loses_its_leader, "the node killed that leads the log of events"),
    special!(requests::requests_whose_broker_is_killed_twice, "callers that wait while their broker is killed"),
    special!(batches::batches_whose_worker_is_killed, "kill -9 in the middle of batches"),
    special!(batches::batches_with_one_bad_job_in_a_thousand, "a job that fails each batch that it is part of"),
    special!(workflows::workflows_of_which_everything_is_killed, "kill -9 of servers, workers, database and broker"),
    special!(soak::everything_at_random, "all of these in random order, some on top of each other"),
];

/// The evidence of a fault at every worker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Lost connections, for so long that readiness and consumers show it too.
    Connections,
    /// Lost connections that may be back at once: `reconnects_total` shows them.
    Counts,
    /// Lost consumers on connections that stay.
    Consumers,
    /// The fault need not be noticed, or not by all.
    Nothing,
}

async fn again_and_again(stage: &mut Stage<'_>, fault: Fault, times: f64, shown: Shown) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    let before = stage.reconnects();
    let times = (stage.size.rounds as f64 * times).ceil() as usize;
    for round in 1..=times {
        stage.play().await;
        let mut struck = stage.strike(fault).await?;
        stage.recovered(&mut struck).await?;
        match shown {
            Shown::Connections => {
                stage.reported_loss(&struck)?;
                stage.counted_loss(&struck)?;
            }
            Shown::Counts => stage.counted_loss(&struck)?,
            Shown::Consumers => stage.logged_loss(round)?,
            Shown::Nothing => {}
        }
    }
    if shown == Shown::Consumers {
        ensure!(stage.reconnects() == before, "a lost consumer must not cost its connection");
    }
    stage.finish().await?;
    if fault == Fault::NetworkCut {
        // Jobs end at every moment, so some end while there is no channel.
        ensure!(stage.figures().acks_lost > 0, "acks that no channel took must be counted");
    }
    Ok(())
}
