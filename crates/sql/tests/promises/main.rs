//! The promises of outbox, inbox and projections, on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod errors;
mod inbox;
mod outbox;
mod pooled;
mod projection;
