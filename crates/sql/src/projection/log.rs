//! Reads the log in batches, from the last applied event on.
//!
//! RabbitMQ starts a reader at the next event that exists if its offset is gone, and does not report it. A reader whose
//! segment is removed jumps too. So the projection proves that no event is missing: before the first event it sees its last
//! applied one, and after each batch whose offsets have a gap it sees that event again. Retention removes the oldest events
//! first, so none can be missing after an event that is still there.

use std::time::Duration;

use leveret::{
    Broker,
    event_log::{self, EventLog, LoggedEvent, Patterns, Start},
};
use tokio::time::{Instant, timeout};

use super::{lease::Lease, state::Ended, table::Place};
use crate::{Error, LogPosition};

/// Longest wait for the last applied event, which exists unless the log has changed.
const FIRST: Duration = Duration::from_secs(5);
/// The number of looks that must show a log which ends before the last applied event. A slow broker may show too little once.
const ROUNDS: usize = 2;
/// Pause between two positions where no event has a handler.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// Events without a handler in a batch, at most.
const PASSED: u64 = 50_000;
/// Bytes of payloads in a batch, at most one event more.
const BYTES: usize = 8 * 1024 * 1024;

/// An event with the number of its handler.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: LoggedEvent,
    pub(super) handler: usize,
    /// True if an operator has it skipped.
    pub(super) is_skipped: bool,
}

#[derive(Debug)]
pub(super) struct ReadBatch {
    /// The events that have a handler.
    pub(super) entries: Vec<Entry>,
    first: Place,
    pub(super) last: Place,
    has_gap: bool,
}

/// The settings of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimits {
    pub(super) events: usize,
    pub(super) interval: Duration,
}

/// A reader of the log at the position of a projection.
#[derive(Debug)]
pub(super) struct Reader<'p> {
    broker: &'p Broker,
    projection: &'p str,
    patterns: &'p Patterns,
    log: EventLog,
    /// The last event that was read.
    read: Option<u64>,
    allows_truncated: bool,
}

/// Returns the position and the mark that recognises an event: its id, or a digest of its topic, time and payload.
pub(super) fn place(event: &LoggedEvent) -> Place {
    let id = event.id().map_or_else(|| digest(event), |id| id.as_bytes().to_vec());
    Place { offset: event.offset(), id }
}

/// FNV-1a of 64 bits. It recognises an event by accident in one of 10^19 cases. It need not resist an attack, because a
/// user that can replace the log can also copy its events.
fn digest(event: &LoggedEvent) -> Vec<u8> {
    let at = event.emitted_at().map_or(0, leveret::time::unix_ms).to_be_bytes();
    let bytes = event.topic().bytes().chain(at).chain(event.payload().iter().copied());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut digest = b"no id ".to_vec();
    digest.extend(format!("{hash:016x}").bytes());
    digest
}

pub(super) fn shown(place: &Place) -> LogPosition {
    LogPosition { offset: place.offset, id: leveret::text::one_line(&String::from_utf8_lossy(&place.id), 128) }
}

impl<'p> Reader<'p> {
    /// Opens the log behind `at`, once it has shown that event.
    pub(super) async fn open(
        (broker, projection, patterns): (&'p Broker, &'p str, &'p Patterns),
        at: Option<&Place>,
        allows_truncated: bool,
        lease: &mut Lease<'_>,
    ) -> Result<Self, Ended> {
        // Declares a log that is missing or was deleted, so that it keeps the events from now on. A user without that
        // right may read an existing log.
        let declared = lease.holding(event_log::declare(broker)).await?;
        let opened = match at {
            Some(place) => at_event(broker, projection, place, lease).await,
            None => lease.holding(EventLog::open(broker, Start::First)).await?.map_err(Ended::log),
        };
        let log = match (opened, declared) {
            (Err(Ended::Again(_)), Err(error)) => return Err(Ended::log(error)),
            (opened, _) => opened?,
        };
        Ok(Self { broker, projection, patterns, log, read: at.map(|place| place.offset), allows_truncated })
    }

    /// Reads the next batch, and waits indefinitely for its first event.
    pub(super) async fn next(&mut self, limits: BatchLimits, lease: &mut Lease<'_>) -> Result<ReadBatch, Ended> {
        let first = lease.holding(self.log.next()).await?.map_err(Ended::log)?;
        if self.read.is_none() && first.offset() > 0 && !self.allows_truncated {
            let (projection, first) = (self.projection.to_owned(), first.offset());
            return Err(Ended::Fatal(Error::LogTruncated { projection, first }));
        }
        let begins = place(&first);
        let mut batch = ReadBatch { entries: Vec::new(), first: begins.clone(), last: begins, has_gap: false };
        let (began, mut since) = (Instant::now(), None);
        let (mut event, mut bytes, mut passed) = (first, 0, 0);
        loop {
            batch.has_gap |= self.read.is_some_and(|read| event.offset() != read + 1);
            self.read = Some(event.offset());
            batch.last = place(&event);
            if let Some(handler) = self.patterns.find(event.topic()) {
                bytes += event.payload().len();
                since.get_or_insert_with(Instant::now);
                batch.entries.push(Entry { event, handler, is_skipped: false });
            } else {
                passed += 1;
            }
            if batch.entries.len() >= limits.events || bytes >= BYTES || passed >= PASSED {
                return Ok(batch);
            }
            let deadline = (began + PASS_EVERY).min(since.map_or(began + PASS_EVERY, |since| since + limits.interval));
            let left = deadline.saturating_duration_since(Instant::now());
            match lease.holding(timeout(left, self.log.next())).await? {
                Ok(next) => event = next.map_err(Ended::log)?,
                Err(_) => return Ok(batch),
            }
        }
    }

    /// Checks that no event is missing in a batch behind `at` whose offsets have a gap.
    pub(super) async fn check(
        &self,
        batch: &ReadBatch,
        at: Option<&Place>,
        lease: &mut Lease<'_>,
    ) -> Result<(), Ended> {
        if !batch.has_gap {
            return Ok(());
        }
        at_event(self.broker, self.projection, at.unwrap_or(&batch.first), lease).await.map(drop)
    }
}

/// Opens the log at an event, and reads that event.
async fn at_event(
    broker: &Broker,
    projection: &str,
    expected: &Place,
    lease: &mut Lease<'_>,
) -> Result<EventLog, Ended> {
    let changed = |found: Option<Place>| {
        let (projection, found) = (projection.to_owned(), found.as_ref().map(shown));
        Ended::Fatal(Error::LogChanged { projection, expected: shown(expected), found })
    };
    let mut end = None;
    for _ in 0..ROUNDS {
        let opening = EventLog::open(broker, Start::Offset(expected.offset));
        let mut log = lease.holding(opening).await?.map_err(Ended::log)?;
        if let Ok(first) = lease.holding(timeout(FIRST, log.next())).await? {
            let found = place(&first.map_err(Ended::log)?);
            return if found == *expected { Ok(log) } else { Err(changed(Some(found))) };
        }
        end = lease.holding(event_log::newest(broker)).await?.map_err(Ended::log)?;
        if end.is_some_and(|newest| newest >= expected.offset) {
            return Err(Ended::Again("the log does not deliver its events".to_owned()));
        }
    }
    Err(changed(end.map(|offset| Place { offset, id: b"the last one".to_vec() })))
}
