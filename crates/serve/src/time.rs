//! Times: RFC 3339 in requests and responses, milliseconds since the epoch inside.

use jiff::Timestamp;

/// Formats a time as RFC 3339 in UTC. Times after the year 9999 are cut to its end.
pub(crate) fn rfc3339(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or(Timestamp::MAX).to_string()
}

/// Reads RFC 3339 with any offset; a time before 1970 is 0.
pub(crate) fn from_rfc3339(text: &str) -> Result<u64, String> {
    let at: Timestamp =
        text.parse().map_err(|_| format!("{text:?} is not a time such as 2026-11-21T15:00:00Z (RFC 3339)"))?;
    Ok(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_from_its_text() {
        assert_eq!(rfc3339(1_800_000_000_123), "2027-01-15T08:00:00.123Z");
        assert_eq!(from_rfc3339("2027-01-15T09:00:00.123+01:00"), Ok(1_800_000_000_123));
        assert_eq!(from_rfc3339(&rfc3339(u64::MAX)).map(rfc3339), Ok(rfc3339(u64::MAX)));
        assert!(from_rfc3339("tomorrow").is_err() && from_rfc3339("2027-01-15").is_err());
    }
}
