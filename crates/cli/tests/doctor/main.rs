//! `leveret doctor` against a real RabbitMQ: a correct setup, and each fault.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod clinic;
mod connecting;
mod contents;
mod messaging;
mod secure;
mod topology;
