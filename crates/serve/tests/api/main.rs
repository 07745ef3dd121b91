//! The promises of the job API, each with a real server and a real client. Most run on the in-memory broker.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod access;
mod batch;
mod broker;
mod cancel;
mod document;
mod events;
mod follow;
mod idempotency;
mod impostor;
mod layers;
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
mod workflows;
