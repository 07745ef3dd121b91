//! The dead-letter desk on the in-memory broker and SQLite. What needs RabbitMQ, PostgreSQL or a process is with the
//! command line's tests.
#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod direct;
mod http;
mod ingest;
mod replay;
mod stage;
mod transfer;
