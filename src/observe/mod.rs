//! What a process reports of itself: metrics, health, logs and traces.

pub(crate) mod health;
pub(crate) mod log_throttle;
pub(crate) mod metrics;
#[cfg(feature = "telemetry")]
pub mod telemetry;

/// The target of the spans that are only for traces: logs leave them out.
#[cfg(feature = "telemetry")]
pub(crate) const TRACE_TARGET: &str = "leveret::trace";
