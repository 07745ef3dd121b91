//! The promises of the store, on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod audit;
mod database;
mod dead;
mod idempotency;
mod open;
mod origin;
mod permits;
mod pooled;
mod replay;
mod retention;
mod status;
mod unique;
mod workflows;
mod writers;
