//! Times in JSON, which are RFC 3339. In memory and in the database they are milliseconds since the epoch.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

fn text(ms: u64) -> Timestamp {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or(Timestamp::MAX)
}

fn millis<E: Error>(text: &str) -> Result<u64, E> {
    let at: Timestamp = text.parse().map_err(|_| E::custom("not a time such as 2026-11-21T15:00:00Z (RFC 3339)"))?;
    Ok(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

/// A time.
pub(crate) mod rfc3339 {
    use super::{Deserialize, Deserializer, Serializer, millis, text};

    pub(crate) fn serialize<S: Serializer>(ms: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&text(*ms))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        millis(&String::deserialize(from)?)
    }
}

/// A time that may be missing.
pub(crate) mod rfc3339_maybe {
    use super::{Deserialize, Deserializer, Serializer, millis, text};

    pub(crate) fn serialize<S: Serializer>(ms: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match ms {
            Some(ms) => to.collect_str(&text(*ms)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| millis(&text)).transpose()
    }
}
