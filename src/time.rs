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

/// Returns the time at `ms` milliseconds after the epoch; the epoch itself if this system cannot represent that time.
#[must_use]
pub fn at_unix_ms(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Parses a duration such as `50us`, `250ms`, `30s`, `5m`, `1h` or `7d`; a bare number is seconds.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let micros = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" | "" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    number.checked_mul(micros).map(Duration::from_micros)
}

/// For serde's attribute `with`: a [`SystemTime`] as its milliseconds since the epoch.
pub(crate) mod wire {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{SystemTime, at_unix_ms, unix_ms};

    pub(crate) fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(unix_ms(*at))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        u64::deserialize(deserializer).map(at_unix_ms)
    }
}

/// For serde's attribute `with`: a time that may be absent.
pub(crate) mod wire_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{SystemTime, at_unix_ms, unix_ms};

    pub(crate) fn serialize<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(unix_ms).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(at_unix_ms))
    }
}

/// For serde's attribute `with`: a [`Duration`] as its milliseconds.
pub(crate) mod wire_duration {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Duration, millis};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(millis(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// For serde's attribute `with`: a duration as people write it, which may be absent. It is written as a number of seconds,
/// and read from one or from a text such as `5m`.
pub(crate) mod wire_span {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::Duration;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Span {
        Seconds(u64),
        Fraction(f64),
        Text(String),
    }

    pub(crate) fn serialize<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) if span.subsec_nanos() == 0 => span.as_secs().serialize(serializer),
            span => span.map(|span| span.as_secs_f64()).serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let Some(span) = Option::<Span>::deserialize(deserializer)? else { return Ok(None) };
        match span {
            Span::Seconds(seconds) => Ok(Some(Duration::from_secs(seconds))),
            Span::Fraction(seconds) => Duration::try_from_secs_f64(seconds).map(Some).map_err(D::Error::custom),
            Span::Text(text) => super::span(&text).map(Some).ok_or_else(|| {
                D::Error::custom(format!(
                    "{text:?} is not a duration: expected a number of seconds, or 250ms, 30s, 5m, 1h, 7d"
                ))
            }),
        }
    }
}
