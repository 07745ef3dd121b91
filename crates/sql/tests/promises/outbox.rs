//! The promises of the outbox, on both databases and on RabbitMQ.

mod crash;
mod enqueue;
mod events;
mod halted;
mod order;
mod relay;
mod sql;
pub(crate) mod stage;
mod trouble;
mod workflows;
