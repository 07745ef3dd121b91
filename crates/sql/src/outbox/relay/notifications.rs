//! Wakes the claimers when PostgreSQL notifies of a commit.
//!
//! Notifications are hints. Whatever fails here delays a job by a second at most.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use sqlx::{
    Executor, PgConnection, PgPool, Row,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::time::timeout;

use super::settings::RelaySettings;
use crate::{Error, Result, db::within};

/// After this much silence the relay checks that its connection still works.
const CHECK_AFTER: Duration = Duration::from_secs(30);
/// The pause before the relay listens again on a new connection.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
const POOLER_CHECKS: usize = 20;

/// Turns notifications into wakes, for as long as the relay runs.
pub(super) async fn listen(settings: &RelaySettings) {
    let Some(pool) = settings.pool.postgres() else { return std::future::pending().await };
    // A pool of its own, because it keeps a connection for as long as the relay runs.
    let own = PgPoolOptions::new().max_connections(2).acquire_timeout(settings.pool.limit);
    let own = own.connect_lazy_with((*pool.connect_options()).clone());
    let forever = ConstantBuilder::new().with_delay(RECONNECT_AFTER).without_max_times();
    if let Ok(BehindPooler) = (|| listen_once(settings, &own)).retry(forever).await {
        tracing::info!(
            "a pooler before the database of the outbox passes on no notifications: the relay polls every second"
        );
    }
    std::future::pending::<()>().await;
}

/// A pooler is between the relay and the database: no notification will come.
struct BehindPooler;

/// Listens until the connection fails.
async fn listen_once(settings: &RelaySettings, own: &PgPool) -> Result<BehindPooler> {
    let limit = settings.pool.limit;
    if within(limit, is_pooled(own)).await? {
        return Ok(BehindPooler);
    }
    let connect = async { Ok(PgListener::connect_with(own).await?) };
    let mut listener = within(limit, connect).await?;
    within(limit, async { Ok(listener.listen("leveret_outbox").await?) }).await?;
    loop {
        if let Ok(notified) = timeout(CHECK_AFTER, listener.recv()).await {
            notified.map_err(Error::from)?;
            settings.waker.wake();
        } else {
            // A broken connection is as silent as one on which nothing happens.
            within(limit, async { Ok(listener.execute("SELECT 1").await?) }).await?;
        }
    }
}

/// Returns whether two transactions on one connection may run in different sessions. To listen behind such a pooler would
/// leave the session listening for the client that gets it next.
///
/// Checked several times, because a busy pooler may give each of two connections one session for a while by chance.
async fn is_pooled(pool: &PgPool) -> Result<bool> {
    let (mut one, mut other) = (pool.acquire().await?, pool.acquire().await?);
    let sessions = (session(&mut one).await?, session(&mut other).await?);
    let mut is_pooled = sessions.0 == sessions.1;
    for _ in 0..POOLER_CHECKS {
        is_pooled |= sessions != (session(&mut one).await?, session(&mut other).await?);
    }
    Ok(is_pooled)
}

async fn session(on: &mut PgConnection) -> Result<i32> {
    Ok(sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(on).await?.try_get(0)?)
}
