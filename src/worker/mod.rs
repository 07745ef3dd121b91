//! A worker: handlers, queues and state, built once and run until it is stopped.

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
