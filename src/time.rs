//! Times as whole milliseconds, the unit of the wire and of the databases.

use std::time::{Duration, SystemTime};

/// Returns the duration in milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the milliseconds from the epoch to `time`; 0 before the epoch.
#[must_use]
pub fn unix_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Returns the time of this machine's clock, in milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}
