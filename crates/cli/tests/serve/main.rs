//! The server as a process on real brokers and databases: its promises while everything is killed, and the claims of the
//! book.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod client;
mod deployed;
mod killed;
mod readme;
mod stage;
mod tokens;
mod workflows;
