//! Randomness for delays: simultaneous failures must not be retried at the same moment.

/// Returns two independent numbers, uniform in 0..1, for [`RetryPolicy::delay`].
pub(crate) fn draws() -> (f64, f64) {
    (fastrand::f64(), fastrand::f64())
}
