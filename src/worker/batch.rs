//! Handlers of batches.

use std::sync::Arc;

use crate::{
    attempt::{
        batch::{Batch, Batching},
        gather::{BatchSetup, erase_batch},
    },
    error::JobError,
    job::Job,
    worker::{builder::Worker, options::HandlerOptions},
};

impl<S: Send + Sync + 'static> Worker<S> {
    /// Registers a handler that takes many jobs of a type at once, such as rows of one `INSERT`.
    ///
    /// A batch begins with its first job, and runs when it is full or when its time is over. The handler says of each job
    /// what became of it ([`BatchJob::fail`](crate::BatchJob::fail)). Jobs of which it says nothing are done. If it returns
    /// an error, panics or overruns its timeout, each job of the batch is retried.
    ///
    /// A job that is retried is part of batches of a quarter of the former size, down to one: so a job that makes its
    /// batches fail ends up alone, and the others succeed without it. The last attempt is always alone, and so is a job of
    /// the suspect queue. Only a job that is alone is dead-lettered for an error of the whole batch.
    ///
    /// The queue's concurrency counts batches, and the handler is the queue's only one. Up to size × concurrency jobs are
    /// unacknowledged, 2000 at most. Each job has an attempt of its own, with its limits, its circuits, its cancellation and
    /// its settlement.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leveret::{Batch, Batching, Job, JobError, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # struct Table; impl Table { async fn insert(&self, _: &[i64]) -> JobResult { Ok(()) } }
    ///
    /// #[derive(Serialize, Deserialize, Job)]
    /// #[job(name = "price.store", queue = "prices")]
    /// struct StorePrice { cents: i64 }
    ///
    /// async fn store_prices(batch: Batch<StorePrice, Table>) -> JobResult {
    ///     let mut rows = Vec::new();
    ///     for job in &batch {
    ///         match job.payload().cents {
    ///             0.. => rows.push(job.payload().cents),
    ///             _ => job.fail(JobError::permanent("a negative price")),
    ///         }
    ///     }
    ///     batch.state().insert(&rows).await
    /// }
    ///
    /// let batching = Batching::up_to(100).within(Duration::from_millis(200));
    /// let worker = Worker::new(Table).handle_batch(batching, store_prices);
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn handle_batch<J, F, Fut, E>(self, batching: Batching, handler: F) -> Self
    where
        J: Job,
        F: Fn(Batch<J, S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<JobError>,
    {
        self.handle_batch_with(batching, handler, |options| options)
    }

    /// Registers a handler that takes batches with settings of its own, as [`handle_with`](Self::handle_with) does. The
    /// timeout is that of a batch, from its start.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Batch, Batching, Job, JobResult, RetryPolicy, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, Job)] #[job(name = "price.store", queue = "prices")] struct StorePrice;
    /// # async fn store_prices(_: Batch<StorePrice, ()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).handle_batch_with(Batching::up_to(100), store_prices, |h| {
    ///     h.timeout(Duration::from_secs(10)).retry(RetryPolicy::exponential().max_attempts(8))
    /// });
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn handle_batch_with<J, F, Fut, E>(
        self,
        batching: Batching,
        handler: F,
        set: impl FnOnce(HandlerOptions<J, S>) -> HandlerOptions<J, S>,
    ) -> Self
    where
        J: Job,
        F: Fn(Batch<J, S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<JobError>,
    {
        let setup = Arc::new(BatchSetup::new(batching));
        let handler = erase_batch(Arc::clone(&setup), handler);
        self.register(handler, |options| set(options.batch(setup)))
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
