use super::*;

fn at(text: &str) -> u64 {
    u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
}

fn shown(ms: u64) -> String {
    instant(ms).unwrap().to_string()
}

/// Returns the next times after one, as UTC.
fn after(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let table = Timetable::new(expression, zone).unwrap();
    let mut time = at(from);
    let mut next = || {
        time = table.next(time).unwrap();
        shown(time)
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn a_weekday_morning_is_in_its_zone() {
    let times = after("0 9 * * MON-FRI", "Europe/Berlin", "2026-03-27T00:00:00Z", 3);
    assert_eq!(times, ["2026-03-27T08:00:00Z", "2026-03-30T07:00:00Z", "2026-03-31T07:00:00Z"]);
}

#[test]
fn six_fields_begin_with_seconds_and_nicknames_are_known() {
    let times = after("*/20 * * * * *", "UTC", "2026-01-01T00:00:30Z", 2);
    assert_eq!(times, ["2026-01-01T00:00:40Z", "2026-01-01T00:01:00Z"]);
    assert_eq!(after("@daily", "Asia/Tokyo", "2026-01-01T00:00:00Z", 1), ["2026-01-01T15:00:00Z"]);
}

#[test]
fn a_time_in_a_skipped_hour_fires_right_after_it_and_once() {
    // In Berlin 02:00 to 03:00 is missing on 2026-03-29.
    let times = after("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
    assert_eq!(times, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    let times = after("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
    assert_eq!(times, ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    // In New York on 2026-03-08.
    let times = after("15 2 * * *", "America/New_York", "2026-03-08T00:00:00Z", 1);
    assert_eq!(times, ["2026-03-08T07:00:00Z"]);
}

#[test]
fn a_time_in_a_repeated_hour_fires_once() {
    // In Berlin 02:00 to 03:00 occurs twice on 2026-10-25.
    let times = after("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
    assert_eq!(times, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
}

#[test]
fn an_interval_keeps_real_time_over_both() {
    let times = after("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15:00Z", 3);
    assert_eq!(times, ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
    let times = after("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:15:00Z", 4);
    let wanted = ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"];
    assert_eq!(times, wanted);
}

#[test]
fn looking_back_finds_the_times_that_were_found_looking_ahead() {
    let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"];
    let expressions =
        ["30 2 * * *", "0 2,3 * * *", "*/30 * * * *", "0 * * * *", "15 1-3 * * *", "0 0 1 * *", "45 1 * * SUN"];
    for (zone, expression) in zones.iter().flat_map(|zone| expressions.map(|expression| (zone, expression))) {
        let table = Timetable::new(expression, zone).unwrap();
        for (from, until) in
            [("2026-03-06T00:00:00Z", "2026-04-07T00:00:00Z"), ("2026-09-30T00:00:00Z", "2026-11-03T00:00:00Z")]
        {
            let (from, until) = (at(from), at(until));
            let ahead: Vec<_> = std::iter::successors(table.next(from), |time| table.next(*time))
                .take_while(|time| *time <= until)
                .map(shown)
                .collect();
            let all = table.due(from, until, CatchUp::All).fires;
            let back: Vec<_> = all.into_iter().map(shown).collect();
            assert_eq!(ahead[ahead.len().saturating_sub(MOST)..], back, "{expression} in {zone}");
        }
    }
}

#[test]
fn missed_times_are_caught_up_by_the_policy() {
    let table = Timetable::new("0 * * * *", "UTC").unwrap();
    let (last, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T04:30:00Z"));
    let due = |last, now, policy| {
        let Due { fires, missed, .. } = table.due(last, now, policy);
        (fires.into_iter().map(|time| shown(time)[11..13].to_owned()).collect::<Vec<_>>().join(" "), missed)
    };
    assert_eq!(due(last, now, CatchUp::All), ("01 02 03 04".into(), 0));
    assert_eq!(due(last, now, CatchUp::Last), ("04".into(), 3));
    assert_eq!(due(last, now, CatchUp::None), (String::new(), 4));
    // A time less than a minute late is not missed.
    let now = at("2026-01-01T04:00:40Z");
    assert_eq!(due(last, now, CatchUp::None), ("04".into(), 3));
    assert_eq!(due(last, now, CatchUp::Last), ("04".into(), 3));
    assert_eq!(due(now, now, CatchUp::All), (String::new(), 0));
    let often = Timetable::new("* * * * * *", "UTC").unwrap();
    let due = often.due(at("2025-01-01T00:00:00Z"), now, CatchUp::All);
    assert_eq!((due.fires.len(), due.fires.last()), (MOST, Some(&now)), "the latest thousand of a year");
}

#[test]
fn an_invalid_expression_or_zone_is_named() {
    for expression in ["", "0 9 * *", "61 * * * *", "0 9 * * FUNDAY", "@sometimes", "0 9 * * * * * *"] {
        let error = Timetable::new(expression, "UTC").unwrap_err();
        assert!(error.contains(&format!("{expression:?}")), "{error}");
    }
    for zone in ["", "Europe/Atlantis", "CEST+2"] {
        let error = Timetable::new("@daily", zone).unwrap_err();
        assert!(error.contains(&format!("{zone:?}")), "{error}");
    }
    let started = std::time::Instant::now();
    assert_eq!(Timetable::new("0 0 30 2 *", "UTC").unwrap().next(at("2026-01-01T00:00:00Z")), None);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn all_skipped_times_are_counted_under_every_policy() {
    // Whole days, days on which the clock changes, and parts of days at both ends.
    let (last, now) = (at("2025-10-20T07:31:10Z"), at("2026-04-07T16:12:50Z"));
    let table = [
        ("* * * * *", "Europe/Berlin"),
        ("*/7 * * * MON-FRI", "America/Havana"),
        ("0,30 1-3 * * *", "Europe/Berlin"),
        ("0-59 0,23 * * *", "Asia/Beirut"),
        ("*/30 2,9 * * *", "Australia/Lord_Howe"),
        ("15 * 1,31 * *", "UTC"),
    ];
    for (expression, zone) in table {
        let table = Timetable::new(expression, zone).unwrap();
        let ahead = std::iter::successors(table.next(last), |time| table.next(*time));
        let all = ahead.take_while(|time| *time <= now).count() as u64;
        assert!(all > 100, "{expression}");
        for policy in [CatchUp::None, CatchUp::Last, CatchUp::All] {
            let Due { fires, missed, .. } = table.due(last, now, policy);
            assert_eq!(fires.len() as u64 + missed, all, "{expression} in {zone}, {policy:?}");
        }
    }
    let each_second = Timetable::new("* * * * * *", "Europe/Berlin").unwrap();
    let due = each_second.due(at("2015-11-01T00:00:00Z"), at("2016-03-01T00:00:00Z"), CatchUp::All);
    assert_eq!((due.fires.len(), due.missed), (MOST, 121 * 86_400 - MOST as u64));
}

#[test]
fn a_day_of_month_or_a_day_of_week_suffices_unless_one_is_a_star_or_a_plus_requires_both() {
    // 2026-06-01 is a Monday.
    let days = |expression| {
        let times = after(expression, "UTC", "2026-05-31T12:00:00Z", 6);
        times.iter().map(|time| time[8..10].parse().unwrap()).collect::<Vec<u8>>()
    };
    assert_eq!(days("0 0 13 * FRI"), [5, 12, 13, 19, 26, 3]);
    assert_eq!(days("0 0 */3 * 1-5"), [1, 2, 3, 4, 5, 7]);
    assert_eq!(days("0 0 */10 * *"), [1, 11, 21, 1, 11, 21]);
    assert_eq!(days("0 0 * * 1-5"), [1, 2, 3, 4, 5, 8]);
    assert_eq!(days("0 0 */3 * +1-5"), [1, 4, 10, 16, 19, 22]);
    assert_eq!(days("0 0 1-7 * +MON"), [1, 6, 3, 7, 5, 2]);
}

#[path = "zone_tests.rs"]
mod zones;
