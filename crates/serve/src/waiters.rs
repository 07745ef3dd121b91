//! Who waits for which job. Those of this process are woken when it records a step; a step that another server records
//! is seen by asking the store once a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leveret_store::StatusChange;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

/// How often the store is asked by whoever waits.
const POLL: Duration = Duration::from_secs(1);
/// Each costs a query a second, and a connection of those that the server has for all requests.
const MOST: usize = 400;

#[derive(Clone, Debug, Default)]
pub(crate) struct Waiters {
    jobs: Arc<Mutex<HashMap<String, Vec<Arc<Notify>>>>>,
    closing: CancellationToken,
}

/// One that waits for news of a job.
#[derive(Debug)]
pub(crate) struct Waiter {
    waiters: Waiters,
    id: String,
    news: Arc<Notify>,
}

impl Waiters {
    /// Waits for news from now on; none if too many wait already.
    pub(crate) fn watch(&self, id: &str) -> Option<Waiter> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.values().map(Vec::len).sum::<usize>() >= MOST {
            return None;
        }
        let news = Arc::new(Notify::new());
        jobs.entry(id.to_owned()).or_default().push(Arc::clone(&news));
        Some(Waiter { waiters: self.clone(), id: id.to_owned(), news })
    }

    pub(crate) fn moved(&self, moved: &[StatusChange]) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_empty() {
            return;
        }
        moved.iter().filter_map(|moved| jobs.get(&moved.id)).flatten().for_each(|news| news.notify_one());
    }

    /// Ends all waiting: the server stops.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }
}

impl Waiter {
    /// Waits until there may be news; false if the server stops.
    pub(crate) async fn news(&self) -> bool {
        let news = timeout(POLL, self.news.notified());
        self.waiters.closing.run_until_cancelled(news).await.is_some()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut jobs = self.waiters.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = jobs.get_mut(&self.id) {
            waiting.retain(|news| !Arc::ptr_eq(news, &self.news));
            if waiting.is_empty() {
                jobs.remove(&self.id);
            }
        }
    }
}
