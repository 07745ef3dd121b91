//! The seam between jobs and brokers: RabbitMQ, or one in this process's memory.
//!
//! The choice of brokers is closed on purpose, and one contract test suite runs against both. Everything above this room
//! speaks of queues and delays, everything in it of exchanges and channels.

pub(crate) mod amqp;
pub(crate) mod clock;
pub(crate) mod memory;
pub(crate) mod session;
