//! Status updates of tracked jobs and their cancellation, below the handle that publishes and consumes.

#[cfg(feature = "worker")]
pub(crate) mod cancellations;
pub(crate) mod emitter;
pub(crate) mod results;
pub mod status_update;
pub(crate) mod stream;
