//! Compares every fire time around changes of the clock with a minute-by-minute search, which uses only jiff's offsets.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::DateTime;

use super::*;

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;

/// An expression, with the values of its minute and hour fields.
struct Case {
    expression: &'static str,
    minutes: Vec<i8>,
    hours: Vec<i8>,
    fixed: bool,
}

fn cases() -> Vec<Case> {
    let fixed = |expression, minutes: &[i8], hours: &[i8]| Case {
        expression,
        minutes: minutes.to_vec(),
        hours: hours.to_vec(),
        fixed: true,
    };
    let paced = |expression, minutes: &[i8], hours: &[i8]| Case { fixed: false, ..fixed(expression, minutes, hours) };
    let (every_minute, every_hour) = ((0..60).collect::<Vec<_>>(), (0..24).collect::<Vec<_>>());
    vec![
        fixed("30 2 * * *", &[30], &[2]),
        fixed("30 2,14 * * *", &[30], &[2, 14]),
        fixed("0,30 2 * * *", &[0, 30], &[2]),
        fixed("15,45 1-3 * * *", &[15, 45], &[1, 2, 3]),
        fixed("0 0 * * *", &[0], &[0]),
        fixed("10,50 0,23 * * *", &[10, 50], &[0, 23]),
        fixed("0-59 2 * * *", &every_minute, &[2]),
        fixed("0 0-23 * * *", &[0], &every_hour),
        fixed("20-40/10 0-3/3,23 * * *", &[20, 30, 40], &[0, 3, 23]),
        fixed("@daily", &[0], &[0]),
        paced("*/15 * * * *", &[0, 15, 30, 45], &every_hour),
        paced("0 * * * *", &[0], &every_hour),
        paced("@hourly", &[0], &every_hour),
        paced("5,35 * * * *", &[5, 35], &every_hour),
        paced("*/20 2 * * *", &[0, 20, 40], &[2]),
        paced("* 0,2 * * *", &every_minute, &[0, 2]),
        paced("30 */2 * * *", &[30], &(0..24).step_by(2).collect::<Vec<_>>()),
    ]
}

/// Returns the wall clock time at an instant, in seconds since 1970 as if it were UTC.
fn wall(zone: &TimeZone, at: i64) -> i64 {
    at + i64::from(zone.to_offset(Timestamp::from_second(at).unwrap()).seconds())
}

fn civil(wall: i64) -> DateTime {
    TimeZone::UTC.to_datetime(Timestamp::from_second(wall).unwrap())
}

/// Returns the instants between two at which the case fires.
fn searched(case: &Case, zone: &TimeZone, from: i64, until: i64) -> Vec<i64> {
    let is_meant = |wall: &i64| {
        let time = civil(*wall);
        case.minutes.contains(&time.minute()) && case.hours.contains(&time.hour())
    };
    // Starts earlier, so that the search knows the times that the clock showed before `from`.
    let clock: Vec<_> = (from - 2 * DAY..until + DAY).step_by(60).map(|at| (at, wall(zone, at))).collect();
    let mut found = BTreeSet::new();
    if case.fixed {
        let mut first_shown = BTreeMap::new();
        for (at, shown) in &clock {
            first_shown.entry(*shown).or_insert(*at);
        }
        for wanted in (clock[0].1..=clock[clock.len() - 1].1).step_by(60).filter(is_meant) {
            // A time that the clock never shows fires with the first later one that it shows.
            found.extend(first_shown.range(wanted..).next().map(|(_, at)| *at));
        }
    } else {
        found.extend(clock.iter().filter(|(_, shown)| is_meant(shown)).map(|(at, _)| *at));
    }
    found.into_iter().filter(|at| (from + 1..=until).contains(at)).collect()
}

/// Returns the instants within some years at which the clock changes.
fn changes(zone: &TimeZone, years: std::ops::RangeInclusive<i16>) -> Vec<i64> {
    let second = |year| Timestamp::from(jiff::civil::date(year, 1, 1).to_zoned(TimeZone::UTC).unwrap()).as_second();
    let (first, end) = (second(*years.start()), second(years.end() + 1));
    let offset = |at: &i64| wall(zone, *at) - at;
    (first..end).step_by(900).filter(|at| offset(at) != offset(&(at - 900))).collect()
}

#[test]
fn around_every_change_of_the_clock_fixed_times_come_once_and_intervals_keep_real_time() {
    let zones = [
        ("Europe/Berlin", 2026..=2026, 2),
        ("America/New_York", 2026..=2026, 2),
        // Half an hour.
        ("Australia/Lord_Howe", 2026..=2026, 2),
        // At a quarter to three.
        ("Pacific/Chatham", 2026..=2026, 2),
        ("Australia/Sydney", 2026..=2026, 2),
        ("Pacific/Auckland", 2026..=2026, 2),
        // Midnight: the midnight of the new day is skipped, or the last hour of the old one occurs twice.
        ("America/Santiago", 2026..=2026, 2),
        ("America/Havana", 2026..=2026, 2),
        ("Asia/Beirut", 2026..=2026, 2),
        ("America/Sao_Paulo", 2018..=2018, 2),
        // Two hours.
        ("Antarctica/Troll", 2026..=2026, 2),
        // A whole day was skipped.
        ("Pacific/Apia", 2011..=2011, 3),
        ("UTC", 2026..=2026, 0),
    ];
    let mut wrong = Vec::new();
    for (name, years, expected) in zones {
        let zone = TimeZone::get(name).unwrap();
        let changes = changes(&zone, years);
        assert_eq!(changes.len(), expected, "{name}");
        for (case, change) in cases().iter().flat_map(|case| changes.iter().map(move |change| (case, change))) {
            let table = Timetable::new(case.expression, name).unwrap();
            let (from, until) = (change - DAY - 7 * MINUTE, change + DAY + 11 * MINUTE);
            let wanted = searched(case, &zone, from, until);
            let (start, end) = (from as u64 * 1000, until as u64 * 1000);
            let ahead = std::iter::successors(table.next(start), |time| table.next(*time));
            let ahead: Vec<_> = ahead.take_while(|time| *time <= end).map(|ms| (ms / 1000) as i64).collect();
            let back = table.due(start, end, CatchUp::All).fires;
            let back: Vec<_> = back.into_iter().map(|ms| (ms / 1000) as i64).collect();
            let shown = |times: &[i64]| times.iter().map(|at| shown(*at as u64 * 1000)).collect::<Vec<_>>();
            for (way, found) in [("ahead", &ahead), ("back", &back)] {
                if *found != wanted {
                    let (missing, more): (Vec<_>, Vec<_>) = (
                        wanted.iter().copied().filter(|at| !found.contains(at)).collect(),
                        found.iter().copied().filter(|at| !wanted.contains(at)).collect(),
                    );
                    wrong.push(format!(
                        "{} in {name}, {way}: without {:?}, with {:?}",
                        case.expression,
                        shown(&missing),
                        shown(&more)
                    ));
                }
            }
            // From any instant on, the next time is the first one after it.
            for at in (from..until).step_by(7 * 60 + 1) {
                let next = wanted.iter().find(|fire| **fire > at);
                let found = table.next(at as u64 * 1000).map(|ms| (ms / 1000) as i64);
                if next.is_some() && next != found.as_ref() {
                    wrong.push(format!("{} in {name} after {}: {found:?}", case.expression, shown(&[at])[0]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}
