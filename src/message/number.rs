//! Reads numbers in headers, in every form in which clients write them.

use lapin::types::AMQPValue;

/// The smallest decimal that is read as milliseconds (March 1973); a smaller decimal is read as seconds.
const FEWEST_MS: f64 = 1e11;
/// The largest whole number up to which a double holds all of them exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A number as it is written in a header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Whole(i64),
    /// A value of AMQP's timestamp type, in seconds.
    Seconds(u64),
    /// A double, a float, a decimal, or text with decimals or an exponent.
    Decimal(f64),
}

impl Number {
    /// Reads a value; `None` for a void, which counts as absent. `text` returns the value as text, if it is text.
    pub(super) fn of<'a>(
        value: &AMQPValue,
        text: impl FnOnce() -> Option<&'a str>,
    ) -> Option<Result<Self, &'static str>> {
        let number = match value {
            AMQPValue::ShortShortInt(n) => i64::from(*n),
            AMQPValue::ShortShortUInt(n) => i64::from(*n),
            AMQPValue::ShortInt(n) => i64::from(*n),
            AMQPValue::ShortUInt(n) => i64::from(*n),
            AMQPValue::LongInt(n) => i64::from(*n),
            AMQPValue::LongUInt(n) => i64::from(*n),
            AMQPValue::LongLongInt(n) => *n,
            AMQPValue::Timestamp(n) => return Some(Ok(Self::Seconds(*n))),
            AMQPValue::Float(n) => return Some(Self::decimal(f64::from(*n))),
            AMQPValue::Double(n) => return Some(Self::decimal(*n)),
            AMQPValue::DecimalValue(n) => {
                return Some(Self::decimal(f64::from(n.value) / 10_f64.powi(i32::from(n.scale))));
            }
            AMQPValue::Void => return None,
            _ => return Some(text().ok_or("not a number").and_then(Self::parse)),
        };
        Some(Ok(Self::Whole(number)))
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        match text.parse() {
            Ok(number) => Ok(Self::Whole(number)),
            // Rust parses "inf" and "nan" as numbers.
            Err(_) => text.parse().map_err(|_| "not a number").and_then(Self::decimal),
        }
    }

    fn decimal(number: f64) -> Result<Self, &'static str> {
        if number.is_finite() { Ok(Self::Decimal(number)) } else { Err("not a number") }
    }

    /// Returns a whole number; seconds become milliseconds.
    pub(super) fn whole(self) -> Result<i64, &'static str> {
        match self {
            Self::Whole(number) => Ok(number),
            Self::Seconds(seconds) => i64::try_from(seconds.saturating_mul(1000)).map_err(|_| "out of range"),
            Self::Decimal(number) if number.fract() != 0.0 => Err("not a whole number"),
            Self::Decimal(number) => within(number),
        }
    }

    /// Returns milliseconds since the epoch, without fractions.
    pub(super) fn time(self) -> Result<i64, &'static str> {
        match self {
            Self::Decimal(number) if number.abs() < FEWEST_MS => within((number * 1000.0).floor()),
            Self::Decimal(number) => within(number.floor()),
            other => other.whole(),
        }
    }
}

fn within(number: f64) -> Result<i64, &'static str> {
    if number.abs() <= EXACT { Ok(number as i64) } else { Err("out of range") }
}
