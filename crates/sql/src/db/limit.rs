//! Time limits on the client's side, for databases that neither answer nor fail.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{Connection, Database, Pool, pool::PoolConnection};
use tokio::time::timeout;

use crate::{Error, Result};

/// The default limit of a statement that reads or writes few rows.
pub(crate) const SHORT: Duration = Duration::from_secs(5);
/// Factor of the time limit for a statement that reads or writes all rows, or waits for other transactions.
pub(super) const SLOW_FACTOR: u32 = 12;
pub(super) const LONG: Duration = SHORT.saturating_mul(SLOW_FACTOR);

/// Awaits an answer of the database, or fails with [`Error::Silent`] at the limit.
pub(crate) async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, answer).await.unwrap_or(Err(Error::Silent))
}

/// Takes a connection from a pool within a limit.
///
/// A pool reports only how long it waited, not why it has no connection. A probe finds the reason. Each pool has one
/// probe at a time, because a probe is a connection beyond the limit of the pool.
pub(super) async fn acquire<D: Database>(pool: &Pool<D>, limit: Duration) -> Result<PoolConnection<D>> {
    // Boxed, because otherwise the futures of all callers would be as large as these.
    match timeout(limit, Box::pin(pool.acquire())).await {
        Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {}
        Ok(acquired) => return Ok(acquired?),
    }
    let options = pool.connect_options();
    let Some(_probe) = Probe::begin(Arc::as_ptr(&options).addr()) else { return Err(sqlx::Error::PoolTimedOut.into()) };
    match timeout(limit, Box::pin(<D::Connection as Connection>::connect_with(&options))).await {
        Ok(Ok(_)) => Err(sqlx::Error::PoolTimedOut.into()),
        Ok(Err(reason)) => Err(reason.into()),
        Err(_) => Err(Error::Silent),
    }
}

/// The pools that have a probe, by the address of their options.
static PROBES: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

struct Probe(usize);

impl Probe {
    /// Returns `None` if the pool has a probe.
    fn begin(pool: usize) -> Option<Self> {
        let is_first = PROBES.lock().unwrap_or_else(PoisonError::into_inner).insert(pool);
        // Made only then: its drop removes the pool and needs the lock.
        is_first.then(|| Self(pool))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        PROBES.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}
