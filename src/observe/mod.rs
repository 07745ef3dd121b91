//! What a process reports of itself: metrics, health, logs and traces.

pub(crate) mod health;
pub(crate) mod log_throttle;
pub(crate) mod metrics;
#[cfg(feature = "telemetry")]
pub mod telemetry;
pub(crate) mod trace;
