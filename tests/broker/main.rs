//! The promises of the README, each as a test whose name is the promise.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what a test needs and does not get fails it")]

mod batches;
mod checkpoints;
mod clocks;
mod connecting;
mod connections;
mod consumer_timeout;
mod contract;
mod events;
mod fairness;
mod feeds;
mod foreign_events;
mod fuzzed;
mod hostile;
mod interop;
mod ladder;
mod lanes;
mod limits;
mod metrics;
mod probe;
mod processes;
mod readme;
mod refusals;
mod refused;
mod requests;
mod schedule_kills;
mod schedules;
mod services;
mod set_up;
mod support;
mod tls;
mod tracked;
mod unique;
mod versions;
mod wire;
mod workflows;
