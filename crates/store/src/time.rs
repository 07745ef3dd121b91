//! Times as RFC 3339, in JSON. In memory and in the database they are milliseconds since the epoch.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Formats a time as RFC 3339 in UTC. Times after the year 9999 are cut to its end.
#[must_use]
pub fn to_rfc3339(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or(Timestamp::MAX).to_string()
}

/// Reads RFC 3339 with any offset; a time before 1970 is 0.
///
/// # Errors
///
/// The text is not such a time.
pub fn from_rfc3339(text: &str) -> Result<u64, String> {
    let at: Timestamp =
        text.parse().map_err(|_| format!("{text:?} is not a time such as 2026-11-21T15:00:00Z (RFC 3339)"))?;
    Ok(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

/// A time.
pub(crate) mod rfc3339 {
    use super::{Deserialize, Deserializer, Error, Serializer, from_rfc3339, to_rfc3339};

    pub(crate) fn serialize<S: Serializer>(ms: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_rfc3339(*ms))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        from_rfc3339(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A time that may be missing.
pub(crate) mod rfc3339_maybe {
    use super::{Deserialize, Deserializer, Error, Serializer, from_rfc3339, to_rfc3339};

    pub(crate) fn serialize<S: Serializer>(ms: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match ms {
            Some(ms) => to.serialize_str(&to_rfc3339(*ms)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| from_rfc3339(&text)).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_from_its_text() {
        assert_eq!(to_rfc3339(1_800_000_000_123), "2027-01-15T08:00:00.123Z");
        assert_eq!(from_rfc3339("2027-01-15T09:00:00.123+01:00"), Ok(1_800_000_000_123));
        assert_eq!(from_rfc3339(&to_rfc3339(u64::MAX)).map(to_rfc3339), Ok(to_rfc3339(u64::MAX)));
        assert!(from_rfc3339("tomorrow").is_err() && from_rfc3339("2027-01-15").is_err());
    }
}
