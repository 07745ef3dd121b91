//! The server as a process of its own, on real brokers and databases: what it promises while everything is killed, and
//! the words of the README.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod client;
mod deployed;
mod killed;
mod readme;
mod stage;
mod tokens;
