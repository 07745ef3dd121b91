//! The text around a report: its title, the source of its figures, and what they leave out.
//!
//! The text depends on the request and the data only, so that the same job run twice writes the same file.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::{
    request::{Aggregate, AggregateOp, GenerateReport},
    scan::ScanResult,
};

/// The text around a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caption {
    /// Title, such as "Sum of amount by region".
    pub(crate) title: String,
    pub(crate) dataset: String,
    /// Filters of the request, as people read them.
    pub(crate) filters: Vec<String>,
    /// Time of the data set's last change: `2026-11-21 04:20 UTC`.
    pub(crate) data_of: String,
    /// The same time in seconds since 1970, for the metadata of the file.
    pub(crate) data_of_seconds: u32,
    /// Number of rows that match the filters.
    pub(crate) rows: String,
    /// Number of rows skipped because of an invalid cell: `none`, `12`.
    pub(crate) skipped: String,
    /// Name of each figure in prose, in the order of the request.
    pub(crate) figures: Vec<String>,
}

impl Caption {
    pub(crate) fn new(request: &GenerateReport, scan: &ScanResult, modified: SystemTime) -> Self {
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

/// Separates the digits before the point by commas in groups of three.
pub(crate) fn grouped(number: &str) -> String {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |number| ("-", number));
    let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = sign.to_owned();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
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
    let time = i64::try_from(seconds(time)).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.unwrap_or(Timestamp::MAX).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// Returns the seconds since 1970; 0 for an earlier time.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
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
    fn times_are_in_utc() {
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
