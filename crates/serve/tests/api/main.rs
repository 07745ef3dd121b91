//! The promises of the job API, each by a real server and a real client. Most need no more than a broker in memory.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod access;
mod batch;
mod broker;
mod cancel;
mod document;
mod follow;
mod idempotency;
mod impostor;
mod list;
mod logs;
mod problems;
mod retry;
mod site;
mod slow;
mod status;
mod store;
mod submit;
mod work;
