//! The loop of a process: takes the lease, applies events while it holds it, and begins again after failures.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    time::Duration,
};

use leveret::{
    Broker,
    backoff::Backoff,
    event_log::{self, DecodeError, Patterns},
    identity::PROCESS,
    text::error_chain,
};
use tokio::{
    select,
    time::{sleep, timeout},
};

use super::{
    apply::{Applier, RolledBack},
    builder::Projection,
    handler::{BoxError, ProjectionConnection},
    lease::Lease,
    log::{BatchLimits, ReadBatch, Reader, place},
    metrics::Metrics,
    state::Ended,
    table::{Held, MIGRATIONS, Table},
    topics::Conflicts,
    window::Window,
};
use crate::{Error, Result};

type Outcome<T, E> = std::result::Result<T, E>;

/// Interval between two looks at the end of the log.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// Longest time that the end of a run spends on giving its lease back.
const RELEASE: Duration = Duration::from_secs(2);

/// A projection in a process.
pub(super) struct Runner<'p, C> {
    pub(super) projection: &'p Projection<C>,
    pub(super) patterns: Patterns,
    pub(super) broker: &'p Broker,
    pub(super) table: Table,
    pub(super) metrics: Metrics,
    /// The epoch of this process's last lease, or [`NONE`].
    own: AtomicI64,
    /// True while the projection stands still because of an error.
    is_failing: AtomicBool,
}

/// No epoch: the first is 1.
const NONE: i64 = -1;

fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30))
}

impl<'p, C: ProjectionConnection> Runner<'p, C> {
    pub(super) fn new(
        projection: &'p Projection<C>,
        patterns: Patterns,
        broker: &'p Broker,
        (table, metrics): (Table, Metrics),
    ) -> Self {
        let (own, is_failing) = (AtomicI64::new(NONE), AtomicBool::new(false));
        Self { projection, patterns, broker, table, metrics, own, is_failing }
    }

    /// Runs until `stop` is ready, or the projection stops for good.
    pub(super) async fn run(&self, stop: impl Future<Output = ()>) -> Result<()> {
        let ended = select! {
            ended = Box::pin(self.lead_again()) => ended,
            () = stop => Ok(()),
        };
        // The drop of `lead_again` rolls back its transaction.
        if self.own() != NONE {
            drop(timeout(RELEASE, self.table.release(self.own())).await);
        }
        self.metrics.leading.set(0);
        ended
    }

    async fn lead_again(&self) -> Result<()> {
        let mut pauses = pauses();
        let mut conflicts = Conflicts::new(&self.table.name, &self.table.topics);
        loop {
            let ended = match self.acquire(&mut conflicts).await {
                Ok(held) => self.lead(held, &mut pauses).await,
                Err(ended) => ended,
            };
            self.metrics.leading.set(0);
            match ended {
                Ended::Lost => {
                    tracing::info!(projection = self.table.name, "another process has the projection");
                    self.own.store(NONE, Relaxed);
                    self.is_failing.store(false, Relaxed);
                    self.metrics.follow();
                }
                Ended::Again(reason) => {
                    self.trouble(None, &reason).await;
                    pauses.sleep().await;
                }
                Ended::Fatal(error) => {
                    let offset =
                        if let Error::Undecodable { source, .. } = &error { Some(source.offset) } else { None };
                    self.trouble(offset, &error_chain(&error)).await;
                    return Err(error);
                }
            }
        }
    }

    /// Waits for the lease.
    async fn acquire(&self, conflicts: &mut Conflicts<'_>) -> Outcome<Held, Ended> {
        MIGRATIONS.check(&self.table.pool).await?;
        loop {
            let seen = self.table.look().await?;
            if conflicts.may_take(&seen)?
                && let Some(held) = self.table.acquire(&PROCESS, self.own(), &seen).await?
            {
                self.own.store(held.epoch, Relaxed);
                conflicts.took(&seen, &held);
                return Ok(held);
            }
            // Another process has the lease, so the last lease of this process has ended.
            self.own.store(NONE, Relaxed);
            sleep(self.table.lease / 4).await;
        }
    }

    /// Applies events until the lease is lost or something fails.
    async fn lead(&self, held: Held, pauses: &mut Backoff) -> Ended {
        tracing::info!(projection = self.table.name, epoch = held.epoch, "this process has the projection");
        self.metrics.leading.set(1);
        self.metrics
            .position
            .set(held.place.as_ref().map_or(-1, |place| i64::try_from(place.offset).unwrap_or(i64::MAX)));
        let ended = select! {
            ended = self.follow(held, pauses) => ended,
            never = self.measure() => never,
        };
        ended.map_or_else(|ended| ended, |never: Infallible| match never {})
    }

    async fn follow(&self, held: Held, pauses: &mut Backoff) -> Outcome<Infallible, Ended> {
        let mut lease = Lease::new(&self.table, held.epoch);
        let settings = &self.projection.settings;
        let rows = self.table.ids().await?.into_iter();
        let rows = rows.map(|(last, ids)| (u64::try_from(last).unwrap_or_default(), ids));
        let mut applier = Applier {
            table: &self.table,
            handlers: &self.projection.handlers,
            timeout: settings.timeout,
            metrics: &self.metrics,
            epoch: held.epoch,
            place: held.place,
            applied: held.applied,
            window: Window::new(settings.remembered, rows),
        };
        if !held.is_emptied {
            self.empty(&mut applier, &mut lease).await?;
        }
        let of = (self.broker, self.table.name.as_str(), &self.patterns);
        let mut reader = Reader::open(of, applier.place.as_ref(), held.allows_truncated, &mut lease).await?;
        self.recovered();
        let (limits, mut skips) = (BatchLimits { events: settings.batch, interval: settings.interval }, held.skips);
        loop {
            let mut batch = reader.next(limits, &mut lease).await?;
            reader.check(&batch, applier.place.as_ref(), &mut lease).await?;
            self.apply(&mut batch, &mut applier, &mut skips, &mut lease).await?;
            pauses.reset();
        }
    }

    async fn empty(&self, applier: &mut Applier<'_, C>, lease: &mut Lease<'_>) -> Outcome<(), Ended> {
        let mut pauses = pauses();
        applier.window = Window::new(self.projection.settings.remembered, []);
        applier.applied = 0;
        loop {
            match applier.empty(&self.projection.empty).await {
                Ok(()) => return Ok(()),
                Err(RolledBack::Ended(ended)) => return Err(ended),
                Err(RolledBack::Handler(_, error)) => {
                    self.trouble(None, &format!("the view cannot be emptied: {}", error_chain(&*error))).await;
                    lease.holding(sleep(pauses.delay())).await?;
                }
            }
        }
    }

    /// Applies a batch in one transaction. If a handler fails, the events before its event are applied first, and then
    /// that event is retried alone.
    async fn apply(
        &self,
        batch: &mut ReadBatch,
        applier: &mut Applier<'_, C>,
        skips: &mut Option<u64>,
        lease: &mut Lease<'_>,
    ) -> Outcome<(), Ended> {
        let (all, last) = (batch.entries.len(), batch.last.clone());
        let (mut start, mut end, mut pauses) = (0, all, pauses());
        self.mark_skipped(batch, *skips);
        loop {
            let to = if end == all { last.clone() } else { place(&batch.entries[end - 1].event) };
            match applier.apply(&batch.entries[start..end], &to).await {
                Ok(()) => {
                    self.recovered();
                    lease.renewed();
                    if end == all {
                        return Ok(());
                    }
                    (start, end) = (end, all);
                }
                Err(RolledBack::Ended(ended)) => return Err(ended),
                // The events before the failed one are applied first, so that the position is directly before the
                // failed event.
                Err(RolledBack::Handler(number, _)) if number > 0 => end = start + number,
                Err(RolledBack::Handler(_, error)) => {
                    end = start + 1;
                    let offset = batch.entries[start].event.offset();
                    self.failed(offset, error).await?;
                    lease.holding(sleep(pauses.delay())).await?;
                    *skips = self.table.skips().await?;
                    self.mark_skipped(batch, *skips);
                }
            }
        }
    }

    fn mark_skipped(&self, batch: &mut ReadBatch, skips: Option<u64>) {
        let Some(offset) = skips else { return };
        for entry in batch.entries.iter_mut().filter(|entry| entry.event.offset() == offset && !entry.is_skipped) {
            let (topic, id) = (entry.event.topic(), entry.event.id());
            tracing::warn!(
                projection = self.table.name,
                offset,
                topic,
                id,
                "an event is skipped, as an operator asked"
            );
            entry.is_skipped = true;
        }
    }

    /// Reports the failure of a handler. An event that does not decode ends the projection.
    async fn failed(&self, offset: u64, error: BoxError) -> Outcome<(), Ended> {
        self.metrics.failures.inc();
        match error.downcast::<DecodeError>() {
            Ok(source) => {
                let projection = self.table.name.clone();
                Err(Ended::Fatal(Error::Undecodable { projection, source: *source }))
            }
            Err(error) => {
                self.trouble(Some(offset), &error_chain(&*error)).await;
                Ok(())
            }
        }
    }

    /// Reports that the projection stands still, with the reason. Each failure is logged, because the pauses grow.
    async fn trouble(&self, offset: Option<u64>, reason: &str) {
        self.metrics.failing.set(1);
        self.is_failing.store(true, Relaxed);
        tracing::warn!(projection = self.table.name, offset, error = reason, "the projection stands still");
        // The failure is logged above, in case the database cannot store it.
        drop(timeout(RELEASE, self.table.failed(self.own(), offset, reason)).await);
    }

    fn own(&self) -> i64 {
        self.own.load(Relaxed)
    }

    fn recovered(&self) {
        self.metrics.failing.set(0);
        if self.is_failing.swap(false, Relaxed) {
            tracing::info!(projection = self.table.name, "the projection applies events again");
        }
    }

    /// Measures the lag from the position to the end of the log.
    async fn measure(&self) -> Outcome<Infallible, Ended> {
        loop {
            // The reader reports a log that cannot be read.
            if let Ok(newest) = event_log::newest(self.broker).await {
                self.metrics.ends_at(newest);
            }
            sleep(MEASURE_EVERY).await;
        }
    }
}
