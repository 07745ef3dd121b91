//! Waits while the database or the broker is unreachable.

use std::time::Duration;

use backon::ConstantBuilder;
use leveret::text::error_chain;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

/// The pause before the next attempt to reach the database or the broker. It does not grow: an attempt costs one
/// statement or one job.
const PAUSE: Duration = Duration::from_millis(500);

/// True if an absence of the database was logged.
#[derive(Debug, Default)]
pub(super) struct Reported(bool);

/// Pauses after an error of a database that may come back, and logs the first one. Returns any other error.
pub(super) async fn outlast(error: Error, reported: &mut Reported, stopping: &CancellationToken) -> Result<()> {
    if !error.is_unavailable() {
        return Err(error);
    }
    if !std::mem::replace(&mut reported.0, true) {
        tracing::warn!(error = error_chain(&error), "the database of the outbox is unreachable");
    }
    pause(stopping).await;
    Ok(())
}

/// The pauses between tries, without an end.
pub(super) fn pauses() -> ConstantBuilder {
    ConstantBuilder::new().with_delay(PAUSE).without_max_times()
}

/// Pauses, or returns at once when the relay stops.
pub(super) async fn pause(stopping: &CancellationToken) {
    drop(timeout(PAUSE, stopping.cancelled()).await);
}
