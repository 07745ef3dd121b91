//! When a schedule fires: an expression in a time zone, and which of its times are due.

use std::time::Duration;

use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use jiff::{Timestamp, tz::TimeZone};

use super::CatchUp;
use crate::message::millis;

/// What is not later than this is merely late: a leader has died, or a clock was set. It is published whatever the
/// schedule says of what was missed.
pub(super) const GRACE: Duration = Duration::from_secs(60);
/// Times that are caught up with at most, the latest ones.
pub(super) const MOST: usize = 1_000;

/// The times of a schedule, in milliseconds since the epoch.
#[derive(Debug)]
pub(super) struct Timetable {
    cron: Cron,
    zone: TimeZone,
}

/// Times that have come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// To be published, the earliest first.
    pub(super) fires: Vec<u64>,
    /// Passed over before them; if there are more than [`MOST`], as many as that.
    pub(super) missed: Vec<u64>,
}

impl Timetable {
    pub(super) fn new(expression: &str, zone: &str) -> Result<Self, String> {
        let parsed = CronParser::builder().seconds(Seconds::Optional).build().parse(expression);
        let cron = parsed.map_err(|error| format!("the expression {expression:?} is wrong: {error}"))?;
        let found = TimeZone::get(zone);
        let zone = found.map_err(|error| format!("the time zone {zone:?} cannot be used: {error}"))?;
        Ok(Self { cron, zone })
    }

    /// The first time after this one, if there is any.
    pub(super) fn next(&self, after: u64) -> Option<u64> {
        let from = instant(after)?.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        u64::try_from(next.timestamp().as_second()).ok().map(|seconds| seconds * 1000)
    }

    /// The last time that is not after this one.
    fn previous(&self, until: u64) -> Option<u64> {
        let until = instant(until)?.to_zoned(self.zone.clone());
        let previous = self.cron.find_previous_occurrence(&until, true).ok()?;
        u64::try_from(previous.timestamp().as_second()).ok().map(|seconds| seconds * 1000)
    }

    /// What is due after `last` and until `now`.
    pub(super) fn due(&self, last: u64, now: u64, catch_up: CatchUp) -> Due {
        let (mut times, mut until) = (Vec::new(), now);
        while times.len() < MOST
            && let Some(time) = self.previous(until)
            && time > last
        {
            times.push(time);
            until = time - 1;
        }
        times.reverse();
        let late = times.partition_point(|time| time + millis(GRACE) < now);
        let first = match catch_up {
            CatchUp::All => 0,
            CatchUp::Last => late.min(times.len().saturating_sub(1)),
            CatchUp::None => late,
        };
        let fires = times.split_off(first);
        Due { fires, missed: times }
    }
}

/// To the second: expressions know nothing finer.
fn instant(ms: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(ms / 1000).ok()?).ok()
}

#[cfg(test)]
#[path = "timetable_tests.rs"]
mod tests;
