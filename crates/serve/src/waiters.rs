//! Clients that wait for jobs. A status update that this process writes wakes them. They find the updates of other servers
//! by querying the store once a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leveret_store::StatusChange;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

/// Interval at which each waiting client queries the store.
const POLL: Duration = Duration::from_secs(1);
/// The greatest number of waiting clients. Each costs a query a second, and one of the server's connections.
const MOST: usize = 400;

#[derive(Clone, Debug, Default)]
pub(crate) struct Waiters {
    jobs: Arc<Mutex<HashMap<String, Vec<Arc<Notify>>>>>,
    closing: CancellationToken,
}

/// A client that waits for a status update of a job.
#[derive(Debug)]
pub(crate) struct Waiter {
    waiters: Waiters,
    id: String,
    update: Arc<Notify>,
}

impl Waiters {
    /// Registers a client; none if too many wait already.
    pub(crate) fn watch(&self, id: &str) -> Option<Waiter> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.values().map(Vec::len).sum::<usize>() >= MOST {
            return None;
        }
        let update = Arc::new(Notify::new());
        jobs.entry(id.to_owned()).or_default().push(Arc::clone(&update));
        Some(Waiter { waiters: self.clone(), id: id.to_owned(), update })
    }

    pub(crate) fn moved(&self, moved: &[StatusChange]) {
        self.wake(moved.iter().map(|moved| moved.id.as_str()));
    }

    /// Wakes the clients that wait under these names.
    pub(crate) fn wake(&self, names: impl Iterator<Item = impl AsRef<str>>) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_empty() {
            return;
        }
        for name in names {
            jobs.get(name.as_ref()).into_iter().flatten().for_each(|update| update.notify_one());
        }
    }

    /// Ends all waiting, because the server stops.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }
}

impl Waiter {
    /// Waits until there may be an update; false if the server stops.
    pub(crate) async fn update(&self) -> bool {
        let update = timeout(POLL, self.update.notified());
        self.waiters.closing.run_until_cancelled(update).await.is_some()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut jobs = self.waiters.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = jobs.get_mut(&self.id) {
            waiting.retain(|update| !Arc::ptr_eq(update, &self.update));
            if waiting.is_empty() {
                jobs.remove(&self.id);
            }
        }
    }
}
