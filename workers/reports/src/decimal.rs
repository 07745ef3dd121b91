//! Decimal numbers of 38 digits with exact sums.
//!
//! A value is a whole number and a count of decimals (`12.50` is 1250 and 2), so sums of money have no binary
//! rounding: 0.1 + 0.2 is 0.3. Arithmetic is checked: a result of more than 38 digits is an error.
//!
//! The libraries do not keep these promises. `rust_decimal` 1.43 has 28 digits and `checked_add` rounds a longer sum
//! without an error. `fastnum` 0.7 rounds 2.51 half to even to 2. `bigdecimal` 0.4 is exact and takes four times as long
//! to read and add a cell.

use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};

/// A decimal number of at most 38 digits, at most [`Decimal::MAX_SCALE`] of them after the point.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Decimal {
    digits: i128,
    scale: u8,
}

impl Decimal {
    /// Maximum number of decimals. A number with further decimals other than zero is refused.
    pub(crate) const MAX_SCALE: u8 = 20;
    /// Zero, without decimals.
    pub(crate) const ZERO: Self = Self { digits: 0, scale: 0 };

    /// Returns an amount of hundredths, with two decimals.
    #[must_use]
    pub(crate) fn of_cents(cents: i128) -> Self {
        Self { digits: cents, scale: 2 }
    }

    /// Parses `-12.50`, `+3`, `.5` or `1e-3`, with or without blanks around it.
    ///
    /// Returns `None` for other text (`1,234`, `NaN`, an empty cell), and for a number with more than 38 digits or more
    /// than [`Decimal::MAX_SCALE`] decimals.
    #[must_use]
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (number, exponent) = split_exponent(text)?;
        let (magnitude, decimals) = read_digits(number)?;
        let digits = if negative { -magnitude } else { magnitude };
        place_point(digits, decimals.checked_sub(exponent)?)
    }

    /// Returns whether a text is a plain number, also one with too many digits.
    #[must_use]
    pub(crate) fn is_written(text: &str) -> bool {
        let text = text.trim_ascii();
        let text = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        are_digits(whole)
            && are_digits(fraction)
            && whole.len() + fraction.len() > 0
            && are_digits(exponent)
            && !exponent.is_empty()
    }

    /// Adds two numbers and keeps the larger number of decimals; `None` if the sum does not fit.
    #[must_use]
    pub(crate) fn checked_add(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let digits = self.digits_at(scale)?.checked_add(other.digits_at(scale)?)?;
        Some(Self { digits, scale })
    }

    /// Divides by a count, rounded half to even to six more decimals than the number has, without trailing zeros among them.
    #[must_use]
    pub(crate) fn mean_of(self, count: u64) -> Option<Self> {
        let count = i128::from(count);
        let scale = (self.scale..=(self.scale + 6).min(Self::MAX_SCALE))
            .rev()
            .find(|scale| self.digits_at(*scale).is_some())?;
        let digits = divide_half_even(self.digits_at(scale)?, count)?;
        Some(Self { digits, scale }.without_trailing_zeros(self.scale))
    }

    /// Rounds half to even to at most `decimals`.
    #[must_use]
    pub(crate) fn round(self, decimals: u8) -> Self {
        let excess = self.scale.saturating_sub(decimals);
        let rounded = power_of_ten(excess).and_then(|unit| divide_half_even(self.digits, unit));
        rounded.map_or(self, |digits| Self { digits, scale: self.scale - excess })
    }

    /// Returns the number of decimals, trailing zeros included.
    #[must_use]
    pub(crate) fn scale(self) -> u8 {
        self.scale
    }

    /// Formats the number with at least this many decimals.
    #[must_use]
    pub(crate) fn padded(self, decimals: u8) -> String {
        let missing = usize::from(decimals.saturating_sub(self.scale));
        let point = if self.scale == 0 && missing > 0 { "." } else { "" };
        format!("{self}{point}{}", "0".repeat(missing))
    }

    /// Returns the nearest binary number, for charts and spreadsheet cells.
    #[must_use]
    pub(crate) fn to_f64(self) -> f64 {
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    fn digits_at(self, scale: u8) -> Option<i128> {
        self.digits.checked_mul(power_of_ten(scale.checked_sub(self.scale)?)?)
    }

    fn without_trailing_zeros(mut self, least_scale: u8) -> Self {
        while self.scale > least_scale && self.digits % 10 == 0 {
            self.digits /= 10;
            self.scale -= 1;
        }
        self
    }
}

impl From<u64> for Decimal {
    fn from(count: u64) -> Self {
        Self { digits: i128::from(count), scale: 0 }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        match (self.digits_at(scale), other.digits_at(scale)) {
            (Some(left), Some(right)) => left.cmp(&right),
            // Only one of the two is scaled up. If that overflows, it is the larger in magnitude.
            (None, _) => self.digits.cmp(&0),
            (_, None) => 0.cmp(&other.digits),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = usize::from(self.scale);
        let digits = format!("{:0>width$}", self.digits.unsigned_abs(), width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        let sign = if self.digits < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

fn split_exponent(text: &[u8]) -> Option<(&[u8], i32)> {
    let Some(at) = text.iter().position(|byte| matches!(byte, b'e' | b'E')) else {
        return Some((text, 0));
    };
    let exponent = std::str::from_utf8(&text[at + 1..]).ok()?.parse().ok()?;
    Some((&text[..at], exponent))
}

/// Returns the digits as one whole number, and how many of them follow the point.
fn read_digits(text: &[u8]) -> Option<(i128, i32)> {
    let mut magnitude: i128 = 0;
    let mut decimals = None;
    let mut seen = false;
    for byte in text {
        match byte {
            b'0'..=b'9' => {
                magnitude = magnitude.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                decimals = decimals.map(|count: i32| count + 1);
                seen = true;
            }
            b'.' if decimals.is_none() => decimals = Some(0),
            _ => return None,
        }
    }
    seen.then_some((magnitude, decimals.unwrap_or(0)))
}

fn place_point(digits: i128, decimals: i32) -> Option<Decimal> {
    if decimals < 0 {
        let factor = power_of_ten(u8::try_from(decimals.checked_neg()?).ok()?)?;
        return Some(Decimal { digits: digits.checked_mul(factor)?, scale: 0 });
    }
    let excess = decimals.saturating_sub(i32::from(Decimal::MAX_SCALE)).max(0);
    let scale = u8::try_from(decimals - excess).ok()?;
    if digits == 0 {
        return Some(Decimal { digits, scale });
    }
    let unit = power_of_ten(u8::try_from(excess).ok()?)?;
    (digits % unit == 0).then_some(Decimal { digits: digits / unit, scale })
}

fn power_of_ten(exponent: u8) -> Option<i128> {
    10_i128.checked_pow(u32::from(exponent))
}

fn divide_half_even(dividend: i128, divisor: i128) -> Option<i128> {
    let quotient = dividend.checked_div(divisor)?;
    let remainder = (dividend % divisor).unsigned_abs();
    let away = if dividend < 0 { -1 } else { 1 };
    match remainder.cmp(&(divisor.unsigned_abs() - remainder)) {
        Ordering::Less => Some(quotient),
        Ordering::Equal if quotient % 2 == 0 => Some(quotient),
        Ordering::Equal | Ordering::Greater => Some(quotient + away),
    }
}
