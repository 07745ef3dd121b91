//! Limits that all workers share, wherever they run: slots and places are leased from a store, many at a time.
//!
//! A worker asks the store ten times a second, not for each job. What it has leased and does not use is lost to the
//! others for a while: slots of a rate for as long as the batch is ahead of time (a tenth of a second, and up to ten while
//! jobs queue up), places until they are given back or their lease is over.

mod concurrency;
mod rate;

use std::{error::Error as StdError, pin::Pin};

use tokio::time::{Duration, Instant, timeout};

pub(crate) use self::{concurrency::SharedPlaces, rate::SharedRate};
use crate::limits::Rate;

/// A store that does not answer within this time is away.
const PATIENCE: Duration = Duration::from_secs(2);
/// A store that is away is asked again after this time; jobs that come before are told so at once.
const AWAY: Duration = Duration::from_secs(2);

/// What a [`LimitStore`] answers, in the end.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// A store of limits that several workers share; leveret-store has one for PostgreSQL and SQLite.
///
/// See [`Worker::limit_store`](crate::Worker::limit_store).
pub trait LimitStore: Send + Sync + 'static {
    /// Takes the next `slots` slots of a rate limit. No slot is given twice, none lies further back than
    /// [`Rate::tolerance`].
    fn slots<'a>(&'a self, limit: &'a str, rate: Rate, slots: u32) -> Answer<'a, Slots>;

    /// Sets how many places a worker has of a concurrency limit from now on, and returns it: as many as it wants if that
    /// is just to the others, never fewer than it uses.
    fn places<'a>(&'a self, limit: &'a str, request: LeaseRequest<'a>) -> Answer<'a, u32>;
}

/// What [`LimitStore::slots`] gives.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// The time of the first slot in nanoseconds from now, negative if it is over; each that follows is
    /// [`Rate::interval`] later.
    pub first: i64,
    /// Random bytes of this limit, kept with it: the same for all workers, always. A job that waits in the broker proves
    /// with them that its slot was given, and not made up by its publisher.
    pub secret: [u8; 16],
}

/// What a worker asks of [`LimitStore::places`].
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    /// The worker, for as long as it runs.
    pub holder: &'a str,
    /// How many it uses now.
    pub used: u32,
    /// How many it could use.
    pub wanted: u32,
    /// How many there are for all.
    pub most: u32,
    /// For how long.
    pub lease: Duration,
}

/// Whether the store answers.
#[derive(Default)]
struct Reach {
    away_until: Option<Instant>,
}

impl Reach {
    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| until > Instant::now())
    }

    /// What the store said, if anything. Says in the log only what is news.
    fn heard<T>(&mut self, limit: &str, answer: Result<T, String>) -> Option<T> {
        match answer {
            Ok(answer) => {
                if self.away_until.take().is_some() {
                    tracing::info!(limit, "the store of limits is back");
                }
                Some(answer)
            }
            Err(reason) => {
                if self.away_until.replace(Instant::now() + AWAY).is_none() {
                    tracing::warn!(limit, error = reason, "the store of limits is away: jobs wait");
                }
                None
            }
        }
    }
}

async fn ask<T>(answer: Answer<'_, T>) -> Result<T, String> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests;
