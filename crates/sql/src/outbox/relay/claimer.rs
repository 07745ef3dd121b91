//! Claims one batch after the other, publishes it and finishes it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use backon::Retryable;
use leveret::backoff::Backoff;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    publish::{PublishedBatch, publish},
    settings::RelaySettings,
    unavailable::{Reported, outlast, pause, pauses},
};
use crate::{
    Result,
    outbox::claim::{self, ClaimRequest, ClaimedJob, KeyCursor},
};

/// The pauses of a claimer that finds no job: doubled from 20 ms to a second.
fn polls() -> Backoff {
    Backoff::new(Duration::from_millis(20), Duration::from_secs(1))
}

pub(super) struct Claimer<'r> {
    settings: &'r RelaySettings,
    woken: watch::Receiver<()>,
    cursor: KeyCursor,
    polls: Backoff,
    broker_is_unreachable: bool,
}

impl<'r> Claimer<'r> {
    pub(super) fn new(settings: &'r RelaySettings) -> Self {
        let (woken, cursor) = (settings.waker.subscribe(), KeyCursor::default());
        Self { settings, woken, cursor, polls: polls(), broker_is_unreachable: false }
    }

    /// Relays until the relay stops, or the database fails for good.
    pub(super) async fn run(mut self, stopping: &CancellationToken) -> Result<()> {
        let mut reported = Reported::default();
        while !stopping.is_cancelled() {
            match self.round(stopping).await {
                Ok(()) => reported = Reported::default(),
                Err(error) => outlast(error, &mut reported, stopping).await?,
            }
        }
        Ok(())
    }

    /// Claims, publishes and finishes one batch; waits if there is none.
    async fn round(&mut self, stopping: &CancellationToken) -> Result<()> {
        let settings = self.settings;
        self.woken.mark_unchanged();
        // One job is enough to see whether an unreachable broker is back.
        let rows = if self.broker_is_unreachable { 1 } else { settings.batch };
        let token = fastrand::i64(..);
        let until = Instant::now() + settings.lease;
        let request = ClaimRequest { token, rows, lease: settings.lease, payload_limit: settings.payload_limit };
        let mut claimed = claim::claim(&settings.pool, &request).await?;
        let (ordered, more) = claim::claim_ordered(&settings.pool, &request, &mut self.cursor).await?;
        claimed.extend(ordered);
        if claimed.is_empty() {
            if !more {
                self.rest(stopping).await;
            }
            return Ok(());
        }
        self.polls.reset();
        let is_unreachable = self.relay(token, until, claimed).await?;
        if is_unreachable {
            if !self.broker_is_unreachable {
                tracing::warn!("the broker is unreachable: the relay waits for it");
            }
            pause(stopping).await;
        }
        self.broker_is_unreachable = is_unreachable;
        Ok(())
    }

    async fn rest(&mut self, stopping: &CancellationToken) {
        let pause = self.polls.delay();
        let woken = select! {
            () = stopping.cancelled() => true,
            woken = self.woken.changed() => woken.is_ok(),
            () = sleep(pause) => false,
        };
        if woken {
            self.polls.reset();
        }
    }

    /// Publishes claimed jobs and writes down their outcome. Returns whether the broker is unreachable.
    async fn relay(&self, token: i64, until: Instant, claimed: Vec<ClaimedJob>) -> Result<bool> {
        let settings = self.settings;
        let count = claimed.len() as u64;
        let (batch, own) = (publish(settings, until, claimed).await, AtomicU64::new(0));
        // What was published need not be published again if the database is back before the lease expires.
        let finish = (|| self.finish(token, &batch, &own)).retry(pauses());
        finish.when(|error| error.is_unavailable() && Instant::now() < until).await?;
        if let Some(metrics) = &settings.metrics {
            metrics.published.inc_by(batch.published.len() as u64);
            metrics.conflicts.inc_by(count.saturating_sub(own.into_inner()));
        }
        Ok(batch.broker_is_unreachable)
    }

    /// Writes down the outcome of a batch. It may be called again after an error. `own` counts the rows whose lease had
    /// not expired.
    async fn finish(&self, token: i64, batch: &PublishedBatch, own: &AtomicU64) -> Result<()> {
        let (pool, count) = (&self.settings.pool, |rows| own.fetch_add(rows, Ordering::Relaxed));
        if !batch.published.is_empty() {
            count(claim::finish(pool, token, &batch.published, self.settings.keeps_published).await?);
        }
        for (failure, rows) in &batch.failed {
            count(claim::fail(pool, token, rows, failure).await?);
        }
        if !batch.untried.is_empty() {
            count(claim::release(pool, token, &batch.untried).await?);
        }
        Ok(())
    }
}
