//! The way of a job to its queue: `Ok` means that the broker has confirmed it.

pub(crate) mod builder;
pub(crate) mod header_value;
pub(crate) mod publisher;
pub(crate) mod replay;
pub mod unique;
