//! Dates and times that have an order: those of ISO 8601, with or without an offset from UTC.

use std::cmp::Ordering;

use jiff::{
    civil::{DateTime, Time},
    fmt::temporal::Pieces,
    tz::Offset,
};

/// A day, or a moment of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Date {
    civil: DateTime,
    has_time: bool,
    offset: Option<Offset>,
}

impl Date {
    /// Reads `2026-11-21`, `2026-11-21 10:00`, `2026-11-21T10:00:00+02:00`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let pieces = Pieces::parse(text.trim_ascii()).ok()?;
        let civil = pieces.date().to_datetime(pieces.time().unwrap_or(Time::midnight()));
        Some(Self { civil, has_time: pieces.time().is_some(), offset: pieces.to_numeric_offset() })
    }

    /// How this one stands to `bound`; `None` where only one of two moments says its offset from UTC.
    ///
    /// A day is the moment at which it begins, wherever that is.
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

/// Whether a text begins as a date in a notation without an order: `11/21/2026`, `21.11.2026`, `21-11-2026`.
pub(crate) fn is_local_date(text: &str) -> bool {
    let text = text.trim_ascii();
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
        for text in ["1/2/2026", "31.12.2026", "31-12-2026 10:00", " 01/02/2026 "] {
            assert!(is_local_date(text), "{text}");
        }
        for text in ["2026-11-21", "2026/11/21", "10.0.0.1", "1.2.10", "1/2", "", "12-34-56", "1/2/2026x"] {
            assert!(!is_local_date(text), "{text}");
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
