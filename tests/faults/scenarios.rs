//! The faults, one file for each side that has them.

mod broker;
mod channel;
mod network;
mod process;

use std::{future::Future, pin::Pin};

use crate::stage::Stage;

type Running<'s> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 's>>;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What happens, in a few words.
    pub(crate) fault: &'static str,
    pub(crate) run: for<'s> fn(&'s mut Stage<'_>) -> Running<'s>,
}

/// A scenario of that function.
macro_rules! scenario {
    ($module:ident::$name:ident, $fault:literal) => {
        Scenario { name: stringify!($name), fault: $fault, run: |stage| Box::pin($module::$name(stage)) }
    };
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(broker::broker_is_killed, "kill -9 and restart"),
    scenario!(broker::broker_is_restarted, "orderly restart"),
    scenario!(network::network_is_cut, "every connection reset"),
    scenario!(network::network_swallows_everything, "partition for longer than the heartbeats, then healed"),
    scenario!(network::connections_are_half_open, "connections that lead nowhere any more"),
    scenario!(network::network_is_slow, "delay, a few bytes at a time, resets in the middle of frames"),
    scenario!(channel::operator_closes_connections, "connections closed through the broker's tools"),
    scenario!(channel::channels_are_closed_with_406, "an ack of an unknown tag"),
    scenario!(channel::consumers_are_cancelled, "basic.cancel sent by the broker"),
    scenario!(process::workers_are_killed, "kill -9 of workers"),
];
