//! Moves status updates of tracked jobs from the broker into the store. A batch is acked when the store has it, so that no
//! failure of either loses an update. Several servers on one store share the queue.

use std::time::Duration;

use leveret::{
    Error,
    reader::{Batch, QueueReader, ReadMessage, Source},
    time::{millis, now_ms},
    topology::STATUS_KEPT,
};
use leveret_store::{Retention, Store};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::services::Services;

/// The greatest number of updates in one commit.
const AT_ONCE: usize = 500;
/// The prefetch: the broker delivers one batch while another is written.
const PREFETCH: u16 = 1000;
/// Interval at which the server records that it receives updates. The record is compared with days. Only a received
/// update or an answering reader counts, because a connection may have no consumer.
const RECORDED_EVERY: Duration = Duration::from_secs(60);
const FIRST_RECORDED: Duration = Duration::from_secs(2);
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(2);

/// Ingests the status updates of all tracked jobs until `stop`.
pub(crate) async fn track(services: Services, retention: Retention, stop: CancellationToken) -> Result<(), Error> {
    let feed = QueueReader::new(&services.broker, Source::StatusUpdates, PREFETCH)?;
    if stop.run_until_cancelled(reconcile(&services.store)).await.is_none() {
        return Ok(());
    }
    tokio::select! {
        () = take(&services, feed, &stop) => {}
        () = prune(&services.store, &retention) => {}
    }
    Ok(())
}

async fn take(services: &Services, mut feed: QueueReader, stop: &CancellationToken) {
    let (writer, mut noted, mut patience) = (services.recorder.writer(), None, FIRST_RECORDED);
    while let Some(next) = stop.run_until_cancelled(timeout(patience, feed.next(AT_ONCE))).await {
        patience = RECORDED_EVERY;
        let is_receiving = if let Ok(batch) = next {
            let updates: Vec<_> = updates(&batch).collect();
            if stop.run_until_cancelled(writer.write(&updates)).await.is_none() {
                break;
            }
            feed.ack(batch);
            noted.is_none_or(|noted: Instant| noted.elapsed() >= RECORDED_EVERY)
        } else {
            stop.run_until_cancelled(feed.is_listening()).await == Some(true)
        };
        if is_receiving {
            noted = Some(Instant::now());
            if let Err(error) = services.store.heard(now_ms()).await {
                tracing::warn!(
                    error = leveret::text::error_chain(&error),
                    "cannot record that this server receives status updates"
                );
            }
        }
    }
    feed.close().await;
}

fn updates(batch: &Batch) -> impl Iterator<Item = leveret::status_update::StatusUpdate> {
    batch.messages().iter().filter_map(|taken: &ReadMessage| {
        let update = taken.status_update();
        if update.is_none() {
            tracing::warn!(taken = ?taken.message(), "dropped a message that is not a status update");
        }
        update
    })
}

/// Marks jobs as stale after an absence longer than the broker keeps their updates.
async fn reconcile(store: &Store) {
    let (kept, mut is_logged) = (millis(STATUS_KEPT), false);
    loop {
        let now = now_ms();
        let noted = match store.heard_at().await {
            Ok(Some(last)) if now.saturating_sub(last) > kept => store.note_gap(now - kept).await,
            Ok(_) => Ok(0),
            Err(error) => Err(error),
        };
        match noted {
            Ok(0) => return,
            Ok(jobs) => {
                return tracing::warn!(jobs, "status updates expired while no server ran: these jobs may be stale");
            }
            Err(error) if !std::mem::replace(&mut is_logged, true) => {
                tracing::warn!(error = leveret::text::error_chain(&error), "the store is unreachable, retrying");
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

/// Deletes rows whose retention has ended. It runs until it is dropped.
async fn prune(store: &Store, retention: &Retention) {
    let mut due = interval(PRUNE_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if let Err(error) = store.prune(now_ms(), retention).await {
            tracing::warn!(error = leveret::text::error_chain(&error), "cannot delete expired rows, retrying");
        }
    }
}
