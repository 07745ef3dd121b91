//! Status updates of tracked jobs, their cancellation, and the streams and queues that carry both.

pub(crate) mod cancellations;
pub mod catalogue;
pub(crate) mod emitter;
pub mod reader;
pub mod status_update;
pub(crate) mod stream;
pub(crate) mod tracked;
