//! What outbox and inbox promise, on SQLite and on PostgreSQL alike.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod errors;
mod inbox;
mod outbox;
mod pooled;
