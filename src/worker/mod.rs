//! A worker: handlers, queues and state, put together once and run until it is told to stop.

pub(crate) mod background;
mod batch;
pub(crate) mod builder;
pub(crate) mod consumer;
pub(crate) mod fair_share;
pub(crate) mod options;
pub(crate) mod queue;
pub(crate) mod redelivery;
pub(crate) mod runtime;
mod spec;
