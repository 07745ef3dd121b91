//! Operations on dead letters on the in-memory broker and SQLite. Tests that need RabbitMQ, PostgreSQL or a process are
//! among the command line's.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod canaries;
mod direct;
mod events;
mod http;
mod ingest;
mod replay;
mod stage;
mod transfer;
