//! `leveret doctor` against a real RabbitMQ: what is well, and each way of not being so.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod clinic;
mod connecting;
mod contents;
mod secure;
mod topology;
