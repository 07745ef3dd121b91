//! Parses and compares dates and times with the year first, with or without an offset from UTC.

use std::cmp::Ordering;

use jiff::{
    civil::{DateTime, Time},
    fmt::temporal::Pieces,
    tz::Offset,
};

/// A day, or a time of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    civil: DateTime,
    has_time: bool,
    offset: Option<Offset>,
}

impl Date {
    /// Parses `2026-11-21`, `2026-11-21 10:00` or `2026-11-21T10:00:00+02:00`, also with slashes or points and without
    /// leading zeros: `2026/9/1 9:05`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        // Most cells are not dates, and this check is cheaper than an error of the parser.
        if !text.as_bytes().get(..4)?.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let padded = if is_padded(text) { None } else { padded(text) };
        let pieces = Pieces::parse(padded.as_deref().unwrap_or(text)).ok()?;
        // The offset of a time zone that is given by name only is unknown.
        if pieces.time_zone_annotation().is_some() && pieces.to_numeric_offset().is_none() {
            return None;
        }
        let civil = pieces.date().to_datetime(pieces.time().unwrap_or(Time::midnight()));
        Some(Self { civil, has_time: pieces.time().is_some(), offset: pieces.to_numeric_offset() })
    }

    /// Returns whether the date states its offset from UTC. Dates with and without an offset have no common order.
    pub(crate) fn has_offset(&self) -> bool {
        self.offset.is_some()
    }

    /// Compares the date with `bound`; `None` if only one of two times states its offset from UTC.
    ///
    /// A day is the moment at which it begins, in any time zone.
    pub(crate) fn order(&self, bound: &Self) -> Option<Ordering> {
        match (self.offset, bound.offset) {
            (None, None) => Some(self.civil.cmp(&bound.civil)),
            (Some(_), None) if !bound.has_time => Some(self.civil.cmp(&bound.civil)),
            (Some(left), Some(right)) => {
                Some(left.to_timestamp(self.civil).ok()?.cmp(&right.to_timestamp(bound.civil).ok()?))
            }
            _ => None,
        }
    }
}

/// Returns whether the date has the ten characters of `2026-11-21`, and the hour two digits.
pub(crate) fn is_padded(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_day = bytes.get(8..10).is_some_and(|day| day.iter().all(u8::is_ascii_digit));
    bytes.get(4) == Some(&b'-') && bytes.get(7) == Some(&b'-') && is_day && bytes.get(12) != Some(&b':')
}

/// Rewrites a text such as `2026/9/1 9:05` in the format of ISO 8601.
fn padded(text: &str) -> Option<String> {
    let (year, month, day, rest) = split_year_first(text)?;
    let date = format!("{year}-{month:0>2}-{day:0>2}");
    let time = rest.trim_start();
    if time.is_empty() {
        return Some(date);
    }
    let time = time.strip_prefix(['T', 't']).unwrap_or(time);
    let zero = if time.as_bytes().get(1) == Some(&b':') { "0" } else { "" };
    Some(format!("{date}T{zero}{time}"))
}

/// Splits a text that begins like `2026-11-21`, `2026/9/1` or `2026.9.1` into year, month, day and the rest.
fn split_year_first(text: &str) -> Option<(&str, &str, &str, &str)> {
    let number = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (year, rest) = text.split_at(number(text));
    let separator = rest.chars().next().filter(|letter| matches!(letter, '-' | '/' | '.'))?;
    let rest = &rest[1..];
    let (month, rest) = rest.split_at(number(rest));
    let rest = rest.strip_prefix(separator)?;
    let (day, rest) = rest.split_at(number(rest));
    let is_date = year.len() == 4 && matches!(month.len(), 1 | 2) && matches!(day.len(), 1 | 2);
    let ends = rest.chars().next().is_none_or(|letter| letter.is_whitespace() || matches!(letter, 'T' | 't'));
    (is_date && ends).then_some((year, month, day, rest))
}

/// Returns whether a text begins like a date that [`Date::parse`] refuses: `11/21/2026`, `21.11.2026`, `21-11-2026` or
/// `2026-11-21 9:00 PM`.
pub(crate) fn is_local_date(text: &str) -> bool {
    let text = text.trim_ascii();
    if split_year_first(text).is_some() {
        return Date::parse(text).is_none();
    }
    let mut parts = text.splitn(3, ['/', '.', '-']);
    let is_short = |part: Option<&str>| {
        part.is_some_and(|part| matches!(part.len(), 1 | 2) && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let year = |part: &str| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        digits == 4 && part[digits..].chars().next().is_none_or(char::is_whitespace)
    };
    is_short(parts.next()) && is_short(parts.next()) && parts.next().is_some_and(year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_a_local_notation_are_known() {
        for text in [
            "1/2/2026",
            "31.12.2026",
            "31-12-2026 10:00",
            " 01/02/2026 ",
            "2026-11-21 9:00 PM",
            "2026-02-30",
            "2026/21/11",
            "2026-11-21T10:00[Europe/Berlin]",
        ] {
            assert!(is_local_date(text), "{text}");
        }
        for text in ["2026-11-21", "2026/11/21", "10.0.0.1", "1.2.10", "1/2", "", "12-34-56", "1/2/2026x"] {
            assert!(!is_local_date(text), "{text}");
        }
    }

    #[test]
    fn a_date_with_its_year_first_is_read_without_leading_zeros_too() {
        for (text, iso) in [
            ("2026/9/30", "2026-09-30"),
            ("2026-9-1", "2026-09-01"),
            ("2026-10-1", "2026-10-01"),
            ("2026-10-1 10:00", "2026-10-01T10:00"),
            ("2026-1-10 9:05", "2026-01-10T09:05"),
            ("2026.09.1", "2026-09-01"),
            ("2026/11/21", "2026-11-21"),
            ("2026-11-21 9:05", "2026-11-21T09:05"),
            ("2026/9/1  9:05:06", "2026-09-01T09:05:06"),
            ("2026-9-1T9:05+02:00", "2026-09-01T09:05+02:00"),
            (" 2026-11-21T9:05Z ", "2026-11-21T09:05Z"),
        ] {
            let (read, iso) = (Date::parse(text).unwrap_or_else(|| panic!("{text}")), Date::parse(iso).unwrap());
            assert_eq!(read.order(&iso), Some(Ordering::Equal), "{text}");
            assert_eq!(read.has_time, iso.has_time, "{text}");
        }
        for text in ["2026/9-1", "2026/9", "26/9/1", "2026/9/1x", "2026/9/123", "2026é9/1"] {
            assert!(Date::parse(text).is_none() && !is_local_date(text), "{text}");
        }
    }

    #[test]
    fn moments_compare_in_time_and_days_by_their_beginning() {
        for (left, right, order) in [
            ("2026-11-21", "2026-11-21T00:00", Some(Ordering::Equal)),
            ("2026-11-21 10:00", "2026-11-21", Some(Ordering::Greater)),
            ("2026-11-21T10:00:00Z", "2026-11-21T12:00:00+02:00", Some(Ordering::Equal)),
            ("2026-11-21T23:00:00-05:00", "2026-11-22", Some(Ordering::Less)),
            ("2026-11-21T10:00", "2026-11-21T10:00Z", None),
            ("2026-11-21", "2026-11-21T10:00Z", None),
        ] {
            let (left, right) = (Date::parse(left).unwrap(), Date::parse(right).unwrap());
            assert_eq!(left.order(&right), order, "{left:?} {right:?}");
        }
        for text in ["2026-02-30", "21.11.2026", "2026", "soon", ""] {
            assert!(Date::parse(text).is_none(), "{text}");
        }
    }
}
