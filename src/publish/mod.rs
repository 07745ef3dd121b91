//! Publishes jobs to their queues: `Ok` means that the broker confirmed the job.

pub(crate) mod builder;
pub(crate) mod emit;
pub(crate) mod header_value;
pub(crate) mod publisher;
pub(crate) mod replay;
pub mod unique;
