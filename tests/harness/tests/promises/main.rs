//! The promises of the harness to its tests.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod cluster;
mod foreign;
mod node;
mod postgres;
mod process;
mod proxy;

/// For what a broker does by itself and at once.
const SOON: std::time::Duration = std::time::Duration::from_secs(10);
