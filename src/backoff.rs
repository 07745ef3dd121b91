//! Randomness for delays, so that failures that happen together do not come back together.

/// Two independent numbers, uniform in 0..1, for [`RetryPolicy::delay`].
pub(crate) fn draws() -> (f64, f64) {
    (fastrand::f64(), fastrand::f64())
}
