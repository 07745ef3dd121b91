//! The test harness of Leveret.
//!
//! In the order a test meets it:
//!
//! - [`shared_node`]: the broker most tests use, one per test process; [`unique`] names keep them apart.
//! - [`Node`]: a private RabbitMQ of one's own, to be killed, restarted and reconfigured through [`Node::ctl`].
//! - [`Cluster`]: several of them, for tests that lose the leader of a queue.
//! - [`shared_postgres`], [`Postgres`]: the same for PostgreSQL; a database for each test.
//! - [`Database`]: an empty database, for promises that hold [on both](on_both_databases) SQLite and PostgreSQL.
//! - [`PgBouncer`]: a pooler before one of them, in transaction mode.
//! - [`RawClient`]: publishes and fetches any message at all, past the framework.
//! - [`Proxy`]: a TCP connection that can be cut, frozen, delayed and throttled.
//! - [`Cable`]: a network that can lose every packet.
//! - [`Collector`]: receives traces like an OpenTelemetry collector.
//! - [`Process`]: a program under test: its lines, signals and exit status.
//! - [`ignores_empty_variables`]: a check that all programs under test must pass.
//! - [`eventually`]: awaits a condition, and names the one that was never met.
//! - [`python`], [`javascript`], [`golang`], [`promtool`], [`schemathesis`]: foreign programs the tests run.
//!
//! Nothing started here outlives the test process, however that ends (see `leash.rs`). What the harness cannot
//! do, it reports in a panic: a missing broker fails a test and never skips it.
#![allow(clippy::expect_used, clippy::panic, reason = "a harness that cannot do its part must fail the test")]

mod amqp;
mod cable;
mod cluster;
mod collector;
mod ctl;
mod database;
mod eventually;
mod foreign;
mod leash;
mod names;
mod node;
mod pgbouncer;
mod postgres;
mod process;
mod proxy;
mod settings;
mod shared;

pub use amqp::RawClient;
pub use cable::Cable;
pub use cluster::Cluster;
pub use collector::{Collector, Exported};
pub use ctl::Permissions;
pub use database::Database;
pub use eventually::{eventually, eventually_eq};
pub use foreign::{golang, javascript, promtool, python, schemathesis};
pub use lapin;
pub use names::{free_port, unique};
pub use node::{Node, NodeOptions, NodeTls};
pub use pgbouncer::PgBouncer;
pub use postgres::{Halted, Postgres, shared_postgres};
pub use process::Process;
pub use proxy::Proxy;
pub use settings::ignores_empty_variables;
pub use shared::{SharedNode, TestVhost, shared_node};
