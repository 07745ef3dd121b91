//! What a report says about itself: its title, where its figures come from, what was left out.
//!
//! Nothing here depends on when the report is made, only on the request and the data, so that the same job run twice
//! writes the same file.

use std::time::{Duration, SystemTime};

use crate::{
    request::{Aggregate, AggregateOp, GenerateReport},
    scan::Scan,
};

/// The words around a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caption {
    /// Such as "Sum of amount by region".
    pub(crate) title: String,
    pub(crate) dataset: String,
    /// The request's conditions, as people say them.
    pub(crate) filters: Vec<String>,
    /// When the data set was last changed: `2026-11-21 04:20 UTC`.
    pub(crate) data_of: String,
    /// The same in seconds since 1970, for the files' own dates.
    pub(crate) data_of_seconds: u32,
    /// How many of its rows counted.
    pub(crate) rows: String,
    /// How many were left out because of a cell that is not valid: `none`, `12`.
    pub(crate) skipped: String,
    /// What each figure is called in prose, in the order of the request.
    pub(crate) figures: Vec<String>,
}

impl Caption {
    pub(crate) fn new(request: &GenerateReport, scan: &Scan, modified: SystemTime) -> Self {
        let figures: Vec<_> = request.aggregates.iter().map(phrase).collect();
        let counted = grouped(&scan.counted.to_string());
        let rows = match scan.counted == scan.rows {
            true => format!("all {counted} rows"),
            false => format!("{counted} of {} rows", grouped(&scan.rows.to_string())),
        };
        Self {
            title: title(&figures, &request.group_by),
            dataset: request.dataset.clone(),
            filters: request.filters.iter().map(ToString::to_string).collect(),
            data_of: utc(modified),
            data_of_seconds: u32::try_from(seconds(modified)).unwrap_or(u32::MAX),
            rows,
            skipped: if scan.skipped == 0 { "none".to_owned() } else { grouped(&scan.skipped.to_string()) },
            figures,
        }
    }
}

/// A number's digits with a comma before every three, leaving sign and decimals alone.
pub(crate) fn grouped(number: &str) -> String {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |number| ("-", number));
    let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = sign.to_owned();
    for (place, digit) in whole.char_indices() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

fn title(figures: &[String], group_by: &[String]) -> String {
    let what = match figures {
        [first, second, _, ..] => format!("{first}, {} and more", uncapitalised(second)),
        [first, second] => format!("{first} and {}", uncapitalised(second)),
        _ => figures.concat(),
    };
    match group_by {
        [] => what,
        columns => format!("{what} by {}", columns.join(" and ")),
    }
}

fn phrase(aggregate: &Aggregate) -> String {
    let column = &aggregate.column;
    match aggregate.op {
        AggregateOp::Sum => format!("Sum of {column}"),
        AggregateOp::Mean => format!("Mean {column}"),
        AggregateOp::Count if column == "*" => "Number of rows".to_owned(),
        AggregateOp::Count => format!("Number of {column}"),
        AggregateOp::Min => format!("Least {column}"),
        AggregateOp::Max => format!("Greatest {column}"),
    }
}

fn uncapitalised(phrase: &str) -> String {
    let mut letters = phrase.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn utc(time: SystemTime) -> String {
    let seconds = seconds(time);
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Since 1970; a time before is taken for it.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// The date `days` after 1970-01-01.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // Counted from 0000-03-01: a leap day is then the last of its year, and of its century.
    let days = days + 719_468;
    let (cycle, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    // March to January have 153 days in every five months.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = 400 * cycle + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        for (plain, text) in
            [("0", "0"), ("999", "999"), ("1000", "1,000"), ("-1234567.8900", "-1,234,567.8900"), ("-100", "-100")]
        {
            assert_eq!(grouped(plain), text);
        }
    }

    #[test]
    fn times_are_told_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_795_234_832, "2026-11-21 04:20 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_title_says_what_was_asked_for() {
        let phrases = |ops: &[(AggregateOp, &str)]| -> Vec<String> {
            ops.iter().map(|(op, column)| phrase(&Aggregate { column: (*column).to_owned(), op: *op })).collect()
        };
        let groups = ["region".to_owned(), "year".to_owned()];
        let (sum, count) = ((AggregateOp::Sum, "amount"), (AggregateOp::Count, "*"));
        assert_eq!(title(&phrases(&[sum]), &groups[..1]), "Sum of amount by region");
        assert_eq!(title(&phrases(&[count, sum]), &groups), "Number of rows and sum of amount by region and year");
        assert_eq!(title(&phrases(&[sum, count, sum]), &[]), "Sum of amount, number of rows and more");
    }
}
