//! Metrics, health, logs and traces of a process.

pub(crate) mod health;
pub(crate) mod log_throttle;
pub(crate) mod metrics;
#[cfg(feature = "telemetry")]
pub mod telemetry;

/// Target of spans that exist only for traces; logs leave them out.
pub(crate) const TRACE_TARGET: &str = "leveret::trace";
