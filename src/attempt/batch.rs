//! Batches: what a handler of many jobs at once gets, and the rule by which a job that fails ends up alone.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    attempt::{context::Context, handler::keep},
    error::{Error, JobError},
};

/// RabbitMQ's largest prefetch for a quorum queue, and so the most jobs that a queue's batches have at once.
const MOST_AT_ONCE: u32 = 2_000;
/// A job that failed is part of batches of a quarter of the former size.
const SHRINK: u16 = 4;

/// The size of batches, and the time that a batch waits for its jobs.
///
/// ```
/// use std::time::Duration;
/// use leveret::Batching;
///
/// let batching = Batching::up_to(100).within(Duration::from_millis(200));
/// # let _ = batching;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    pub(crate) size: u16,
    pub(crate) within: Duration,
}

impl Batching {
    /// Puts up to this many jobs into a batch, 1 to 2000. A batch waits 100 ms for them by default.
    #[must_use]
    pub fn up_to(jobs: u16) -> Self {
        Self { size: jobs, within: Duration::from_millis(100) }
    }

    /// Sets how long a batch waits for more jobs, from its first one on. It must be less than the timeout of an attempt.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// Checks the settings of the batches of `job`, on a queue that runs `concurrency` of them at once.
    pub(crate) fn check(self, job: &str, concurrency: u16, timeout: Duration, attempts: u32) -> Result<(), Error> {
        let (of, size) = (format!("job {job:?}"), self.size);
        let wrong = |setting, reason| Err(Error::Setting { setting, reason });
        let at_once = u32::from(size) * u32::from(concurrency);
        if size == 0 || at_once > MOST_AT_ONCE {
            let reason = format!(
                "{of} has batches of {size}, {concurrency} at once: {at_once} jobs, and 1 to {MOST_AT_ONCE} are \
                 possible; set a smaller size or Queue::concurrency"
            );
            return wrong("Batching::up_to", reason);
        }
        if self.within.is_zero() || self.within >= timeout {
            let reason = format!("{of} has {:?}: set more than 0 and less than its timeout, {timeout:?}", self.within);
            return wrong("Batching::within", reason);
        }
        let needed = attempts_until_alone(size);
        if attempts < needed {
            let reason = format!(
                "{of} has batches of {size} and {attempts} attempts: set at least {needed}, so that a job that fails \
                 has an attempt alone"
            );
            return wrong("RetryPolicy::max_attempts", reason);
        }
        Ok(())
    }
}

/// Returns the most jobs of a batch that a job may be part of. `written` is what a former attempt left on the job. The last
/// attempt is always alone, so that no job is dead-lettered for the fault of another.
pub(crate) fn largest(written: Option<u16>, size: u16, attempt: u32, attempts: u32) -> u16 {
    if attempt >= attempts { 1 } else { written.unwrap_or(size).clamp(1, size) }
}

/// Returns the most jobs of the next attempt's batch.
pub(crate) fn shrunk(largest: u16) -> u16 {
    (largest / SHRINK).max(1)
}

/// Returns the number of the first attempt that a failing job has alone.
fn attempts_until_alone(size: u16) -> u32 {
    let (mut attempt, mut largest) = (1, size);
    while largest > 1 {
        (attempt, largest) = (attempt + 1, shrunk(largest));
    }
    attempt
}

/// The jobs of one batch. See [`Worker::handle_batch`](crate::Worker::handle_batch) for an example.
pub struct Batch<J, S> {
    pub(super) jobs: Vec<BatchJob<J, S>>,
    pub(super) deadline: Instant,
}

/// One job of a [`Batch`]: its payload, its context, and what became of it.
///
/// ```
/// use leveret::{Batch, JobError, JobResult};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "row.insert", queue = "rows")] struct Row { price: i64 }
///
/// async fn insert(batch: Batch<Row, ()>) -> JobResult {
///     for job in batch.iter() {
///         if job.payload().price < 0 {
///             tracing::warn!(job_id = %job.context().job_id(), "refused");
///             job.fail(JobError::permanent("a negative price"));
///         }
///     }
///     Ok(())
/// }
/// # let _ = leveret::Worker::new(()).handle_batch(leveret::Batching::up_to(10), insert);
/// ```
pub struct BatchJob<J, S> {
    pub(super) payload: J,
    pub(super) ctx: Context<S>,
    pub(super) failure: Arc<Failure>,
}

/// The handler's verdict on one job.
#[derive(Default)]
pub(super) struct Failure(Mutex<Option<JobError>>);

impl Failure {
    pub(super) fn take(&self) -> Option<JobError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<J, S> Batch<J, S> {
    /// Returns the jobs, in no particular order.
    pub fn iter(&self) -> std::slice::Iter<'_, BatchJob<J, S>> {
        self.jobs.iter()
    }

    /// Returns how many jobs there are; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Returns when the handler is cut off: the timeout of its attempts, from the start of the batch.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns the worker's state.
    ///
    /// # Panics
    ///
    /// Never: a batch has at least one job.
    #[must_use]
    pub fn state(&self) -> &S {
        self.jobs[0].ctx.state()
    }
}

impl<'a, J, S> IntoIterator for &'a Batch<J, S> {
    type Item = &'a BatchJob<J, S>;
    type IntoIter = std::slice::Iter<'a, BatchJob<J, S>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<J, S> BatchJob<J, S> {
    /// Returns the job itself.
    #[must_use]
    pub fn payload(&self) -> &J {
        &self.payload
    }

    /// Returns the job's context. Its deadline includes the time for which the job waited for its batch.
    #[must_use]
    pub fn context(&self) -> &Context<S> {
        &self.ctx
    }

    /// Marks this job as failed with the error that a handler of one job would return. The last call wins. An error of
    /// the whole batch replaces it.
    pub fn fail(&self, error: impl Into<JobError>) {
        *self.failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
    }

    /// Sets the result for the last [status update](crate::status_update) and for the reply to a
    /// [request](crate::Publisher::request).
    pub fn keep_result(&self, result: &impl Serialize) {
        keep(&self.ctx.result_keeper(), result);
    }
}

impl<J: fmt::Debug, S> fmt::Debug for Batch<J, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.jobs).finish()
    }
}

impl<J: fmt::Debug, S> fmt::Debug for BatchJob<J, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchJob").field("payload", &self.payload).field("ctx", &self.ctx).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_fails_is_part_of_quarters_until_it_is_alone() {
        let sizes = |size| {
            let mut sizes = vec![size];
            while let Some(&last) = sizes.last()
                && last > 1
            {
                sizes.push(shrunk(last));
            }
            sizes
        };
        for (size, all) in [
            (1, vec![1]),
            (2, vec![2, 1]),
            (4, vec![4, 1]),
            (100, vec![100, 25, 6, 1]),
            (1_000, vec![1_000, 250, 62, 15, 3, 1]),
            (2_000, vec![2_000, 500, 125, 31, 7, 1]),
        ] {
            assert_eq!(sizes(size), all);
            assert_eq!(attempts_until_alone(size) as usize, all.len(), "{size}");
        }
    }

    #[test]
    fn the_last_attempt_is_alone_and_no_batch_is_larger_than_the_handlers() {
        for ((written, size, attempt, attempts), expected) in [
            ((None, 100, 1, 20), 100),
            ((Some(25), 100, 2, 20), 25),
            ((Some(1), 100, 4, 20), 1),
            ((Some(0), 100, 4, 20), 1),
            ((Some(u16::MAX), 100, 1, 20), 100),
            ((None, 100, 19, 20), 100),
            ((None, 100, 20, 20), 1),
            ((Some(25), 100, 21, 20), 1),
            ((None, 1, 1, 1), 1),
        ] {
            assert_eq!(largest(written, size, attempt, attempts), expected, "{written:?} {size} {attempt}/{attempts}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_with_the_numbers() {
        const SECOND: Duration = Duration::from_secs(1);
        let check = |batching: Batching, concurrency, attempts| batching.check("row", concurrency, SECOND, attempts);
        let hundred = Batching::up_to(100);
        check(hundred, 20, 4).unwrap();
        check(Batching::up_to(1), 2_000, 1).unwrap();
        for (wrong, said) in [
            (check(hundred, 21, 20), "100, 21 at once: 2100 jobs"),
            (check(Batching::up_to(0), 1, 20), "batches of 0"),
            (check(Batching::up_to(u16::MAX), u16::MAX, 20), "4294836225 jobs"),
            (check(hundred.within(SECOND), 1, 20), "has 1s: set more than 0 and less than its timeout, 1s"),
            (check(hundred.within(Duration::ZERO), 1, 20), "has 0ns"),
            (check(hundred, 1, 3), "batches of 100 and 3 attempts: set at least 4"),
        ] {
            let error = wrong.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
