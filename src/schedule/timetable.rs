//! The timetable of a schedule: an expression in a time zone, and its due times.
//!
//! There are two kinds of expressions. With a `*` among its seconds, minutes or hours (`*/15 * * * *`, `0 * * * *`) an
//! expression is an interval. It fires at each instant that matches on the wall clock, so it keeps real time when the
//! clock changes. Otherwise its times are fixed: each fires once on each of its days. A time that the clock skips fires
//! right after the gap, together with all others of the same gap. A time that the clock repeats fires at its first
//! occurrence.
//!
//! The cron library has the same two kinds, but treats lists and ranges as intervals. So it computes fixed times
//! without a zone, and this module maps them to instants.

use std::time::Duration;

use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

use crate::schedule::CatchUp;
use crate::time::millis;

/// The longest lateness that is not a miss: a leader crashed, or a clock was set. Such a time is published whatever the
/// schedule's policy for missed times.
pub(super) const GRACE: Duration = Duration::from_secs(60);
/// Most missed times that are published, the latest ones.
pub(super) const MOST: usize = 1_000;
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The times of a schedule, in milliseconds since the epoch.
#[derive(Debug)]
pub(super) struct Timetable {
    cron: Cron,
    zone: TimeZone,
    is_fixed: bool,
}

/// Times that have come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Times to publish, the earliest first.
    pub(super) fires: Vec<u64>,
    /// Number of skipped times before them.
    pub(super) missed: u64,
    /// The last skipped time.
    pub(super) missed_until: Option<u64>,
}

impl Timetable {
    pub(super) fn new(expression: &str, zone: &str) -> Result<Self, String> {
        let parsed = CronParser::builder().seconds(Seconds::Optional).build().parse(expression);
        let cron = parsed.map_err(|error| format!("the expression {expression:?} is invalid: {error}"))?;
        let found = TimeZone::get(zone);
        let zone = found.map_err(|error| format!("the time zone {zone:?} is not usable: {error}"))?;
        let is_fixed = is_fixed(&cron);
        Ok(Self { cron, zone, is_fixed })
    }

    /// Returns the first time after this one, if there is any.
    pub(super) fn next(&self, after: u64) -> Option<u64> {
        let after = instant(after)?;
        milliseconds(if self.is_fixed {
            self.instant_of(self.cron.find_next_occurrence(&self.furthest(after), false).ok()?)?
        } else {
            let from = after.to_zoned(self.zone.clone());
            self.cron.find_next_occurrence(&from, false).ok()?.timestamp()
        })
    }

    /// Returns the last time that is not after this one.
    fn previous(&self, until: u64) -> Option<u64> {
        let until = instant(until)?;
        milliseconds(if self.is_fixed {
            self.instant_of(self.cron.find_previous_occurrence(&self.furthest(until), true).ok()?)?
        } else {
            let until = until.to_zoned(self.zone.clone());
            self.cron.find_previous_occurrence(&until, true).ok()?.timestamp()
        })
    }

    /// Returns the furthest wall clock time that has been reached by then. It may lie before the last time that the
    /// clock was set back. A fixed time has come if it is not after this.
    fn furthest(&self, at: Timestamp) -> DateTime {
        let now = self.zone.to_datetime(at);
        let before_change = self.last_change(at).and_then(|change| change.checked_sub(SECOND).ok());
        before_change.map_or(now, |before| now.max(self.zone.to_datetime(before)))
    }

    /// Returns the instant of a fixed time.
    fn instant_of(&self, time: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(time).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(time).ok()
            }
            // With the old offset the time is after the change, so the last change before it is that of the gap.
            AmbiguousOffset::Gap { before, .. } => self.last_change(before.to_timestamp(time).ok()?),
        }
    }

    /// Returns the last change of the clock that is not after this instant.
    fn last_change(&self, at: Timestamp) -> Option<Timestamp> {
        Some(self.zone.preceding(at.checked_add(SECOND).ok()?).next()?.timestamp())
    }

    /// Returns the due times after `last` and until `now`.
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
        let earlier = times.first().filter(|_| times.len() == MOST).map_or(0, |first| self.count(last, first - 1));
        let late = times.partition_point(|time| time + millis(GRACE) < now);
        let first = match catch_up {
            CatchUp::All => 0,
            CatchUp::Last => late.min(times.len().saturating_sub(1)),
            CatchUp::None => late,
        };
        let fires = times.split_off(first);
        Due { fires, missed: earlier + times.len() as u64, missed_until: times.last().copied() }
    }

    /// Counts the times after `after` and until `until`. Days without a change of the clock are not enumerated.
    fn count(&self, after: u64, until: u64) -> u64 {
        let (mut count, mut at) = (0, after);
        while let Some(next) = self.next(at).filter(|next| *next <= until) {
            (count, at) = match self.even_day(next).filter(|(before, last)| at <= *before && *last <= until) {
                Some((_, last)) => (count + self.times_a_day(), last),
                None => (count + 1, next),
            };
        }
        count
    }

    /// Returns the last second before the day of an instant, and the last second of that day, if the clock does not
    /// change between them.
    fn even_day(&self, at: u64) -> Option<(u64, u64)> {
        let begin = instant(at)?.to_zoned(self.zone.clone()).start_of_day().ok()?;
        let end = begin.tomorrow().ok()?;
        let (before, last) = (begin.timestamp().checked_sub(SECOND).ok()?, end.timestamp().checked_sub(SECOND).ok()?);
        let is_even = self.last_change(last).is_none_or(|change| change <= before);
        is_even.then_some((milliseconds(before)?, milliseconds(last)?))
    }

    fn times_a_day(&self) -> u64 {
        let pattern = &self.cron.pattern;
        [&pattern.seconds, &pattern.minutes, &pattern.hours].map(|field| field.values().len() as u64).iter().product()
    }
}

/// Returns whether no second, minute or hour has a `*`.
fn is_fixed(cron: &Cron) -> bool {
    let fields: Vec<_> = cron.pattern.as_str().split_whitespace().collect();
    // The three date fields follow the time fields, and the seconds field is optional.
    let of_the_day = if fields.len() == 5 { 2 } else { 3 };
    fields.iter().take(of_the_day).all(|field| !field.contains('*'))
}

/// Returns the instant in whole seconds, because expressions are no finer.
fn instant(ms: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(ms / 1000).ok()?).ok()
}

fn milliseconds(at: Timestamp) -> Option<u64> {
    u64::try_from(at.as_second()).ok().map(|seconds| seconds * 1000)
}

#[cfg(test)]
#[path = "timetable_tests.rs"]
mod tests;
