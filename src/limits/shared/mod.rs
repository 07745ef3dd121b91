//! Limits shared by all workers of all hosts: slots are leased from a store, many at a time.
//!
//! A worker asks the store ten times a second, not for each job. Leased slots that it does not use are unavailable to
//! the others for a while. Slots of a rate are unavailable while the batch is ahead of time: a tenth of a second, and
//! up to ten seconds while jobs queue up. Slots of a concurrency limit are unavailable until they are released or their
//! lease expires.

mod concurrency;
mod rate;

use std::{error::Error as StdError, pin::Pin};

use tokio::time::{Duration, Instant, timeout};

pub(crate) use self::{concurrency::SharedConcurrency, rate::SharedRate};
use crate::limits::Rate;

/// Longest wait for an answer of the store; then it counts as unreachable.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// Time after which an unreachable store is asked again; until then, the store counts as unreachable without a
/// question.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The future of a [`LimitStore`]'s answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// A store of limits that several workers share; leveret-store has one for PostgreSQL and SQLite.
///
/// See [`Worker::limit_store`](crate::Worker::limit_store).
pub trait LimitStore: Send + Sync + 'static {
    /// Takes the next `slots` slots of a rate limit. No slot is given twice, and none is further in the past than
    /// [`Rate::tolerance`].
    fn slots<'a>(&'a self, limit: &'a str, rate: Rate, slots: u32) -> Answer<'a, Slots>;

    /// Sets how many slots of a concurrency limit a worker has from now on, and returns it: the requested number if
    /// that is fair to the others, and never fewer than it uses.
    fn lease<'a>(&'a self, limit: &'a str, request: LeaseRequest<'a>) -> Answer<'a, u32>;
}

/// The answer of [`LimitStore::slots`].
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// The time of the first slot in nanoseconds from now, negative if it has passed. Each further slot is
    /// [`Rate::interval`] later.
    pub first: i64,
    /// Random bytes of this limit, stored with it, and the same for all workers at all times. With them, a job that
    /// waits in the broker proves that the limit gave its slot, not its publisher.
    pub secret: [u8; 16],
}

/// The request of a worker to [`LimitStore::lease`].
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    /// The id of the worker, while it runs.
    pub holder: &'a str,
    /// The number of slots in use.
    pub used: u32,
    /// The number of slots that it could use.
    pub wanted: u32,
    /// The total number of slots for all workers.
    pub most: u32,
    /// The duration of the lease.
    pub lease: Duration,
}

/// The reachability of the store.
#[derive(Default)]
struct Reach {
    unreachable_until: Option<Instant>,
}

impl Reach {
    fn is_unreachable(&self) -> bool {
        self.unreachable_until.is_some_and(|until| until > Instant::now())
    }

    /// Returns the store's answer, if there was one. Logs only changes.
    fn record<T>(&mut self, limit: &str, answer: Result<T, String>) -> Option<T> {
        match answer {
            Ok(answer) => {
                if self.unreachable_until.take().is_some() {
                    tracing::info!(limit, "the store of limits is reachable again");
                }
                Some(answer)
            }
            Err(reason) => {
                if self.unreachable_until.replace(Instant::now() + ASK_AGAIN_AFTER).is_none() {
                    tracing::warn!(limit, error = reason, "the store of limits is unreachable: jobs wait");
                }
                None
            }
        }
    }
}

async fn ask<T>(answer: Answer<'_, T>) -> Result<T, String> {
    match timeout(ANSWERED_WITHIN, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {ANSWERED_WITHIN:?}")),
    }
}

#[cfg(test)]
mod tests;
