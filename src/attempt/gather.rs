//! Gathers jobs into batches. To the worker each job is an attempt of its own, with its own permit, limits, cancellation and
//! settlement; the attempt joins a group here and waits until its batch has run.
//!
//! A group has the jobs that may be part of batches of the same size. So a job that failed before shares a batch only with
//! others that did.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use prometheus::Histogram;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use crate::{
    attempt::{
        batch::{Batch, BatchJob, Batching, Failure, largest, shrunk},
        context::{Canceller, Context},
        handler::{Erased, decode, panicked},
    },
    error::{Class, JobError, JobResult},
    job::Job,
    message::header,
    topology::lane::Lane,
};

/// Delay of a job whose batch did not start in time.
const NO_SLOT: Duration = Duration::from_secs(1);
/// The worker's own bound of an attempt exceeds the sum of its parts, so that the more precise error comes first.
const MARGIN: Duration = Duration::from_secs(1);

impl<S> Context<S> {
    pub(crate) fn lane(&self) -> Lane {
        self.inner.lane
    }

    /// Sets the most jobs of a batch that a retry of this job may be part of.
    pub(crate) fn set_next_batch(&self, jobs: u16) {
        self.inner.received.next_batch.store(jobs, Ordering::Relaxed);
    }

    /// Returns the token that is cancelled when the worker stops taking jobs.
    pub(crate) fn draining(&self) -> CancellationToken {
        self.inner.handlers.stop.drain.clone()
    }
}

/// The settings of a batch handler, of which some are known only when its worker starts.
pub(crate) struct BatchSetup {
    pub(crate) batching: Batching,
    /// One for each batch that may run at once.
    slots: Arc<Semaphore>,
    started: OnceLock<(Duration, Histogram)>,
}

impl BatchSetup {
    pub(crate) fn new(batching: Batching) -> Self {
        Self { batching, slots: Arc::new(Semaphore::new(0)), started: OnceLock::new() }
    }

    /// Sets how many batches run at once, and for how long each. Returns the longest time of an attempt: it may wait for its
    /// batch as long as another batch runs.
    pub(crate) fn start(&self, concurrency: u16, timeout: Duration, sizes: Histogram) -> Duration {
        if self.started.set((timeout, sizes)).is_ok() {
            self.slots.add_permits(concurrency.into());
        }
        self.batching.within + timeout * 2 + MARGIN
    }

    fn timeout(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, |(timeout, _)| *timeout)
    }
}

type Run<J, S> = Box<dyn Fn(Batch<J, S>) -> BoxFuture<'static, JobResult> + Send + Sync>;

struct Gatherer<J, S> {
    setup: Arc<BatchSetup>,
    handler: Run<J, S>,
    /// By the size of their batches. A group that is here has a task that empties it.
    groups: Mutex<HashMap<u16, Group<J, S>>>,
}

struct Group<J, S> {
    waiting: VecDeque<Waiting<J, S>>,
    /// Notified when there are enough for a batch.
    full: Arc<Notify>,
}

/// An attempt that waits for its batch.
struct Waiting<J, S> {
    job: J,
    ctx: Context<S>,
    since: Instant,
    start: oneshot::Sender<Started>,
}

/// Notifies an attempt that its batch runs.
struct Started {
    result: oneshot::Receiver<JobResult>,
    /// The batch is dropped with the last of its attempts.
    _running: Arc<DropGuard>,
}

/// Erases the job's type of a handler that takes batches.
pub(crate) fn erase_batch<J, S, F, Fut, E>(setup: Arc<BatchSetup>, handler: F) -> Erased<S>
where
    J: Job,
    S: Send + Sync + 'static,
    F: Fn(Batch<J, S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<JobError>,
{
    let handler: Run<J, S> = Box::new(move |batch| handler(batch).map(|result| result.map_err(Into::into)).boxed());
    let gatherer = Arc::new(Gatherer { setup, handler, groups: Mutex::default() });
    Arc::new(move |ctx| {
        let gatherer = Arc::clone(&gatherer);
        Box::pin(async move {
            let job = decode::<J>(ctx.message())?;
            gatherer.join(job, ctx).await
        })
    })
}

impl<J: Send + 'static, S: Send + Sync + 'static> Gatherer<J, S> {
    /// Waits for a batch, and for what becomes of this job in it.
    async fn join(self: Arc<Self>, job: J, ctx: Context<S>) -> JobResult {
        let size = match ctx.lane() {
            Lane::Suspect => 1,
            Lane::Main | Lane::High | Lane::Low => {
                let written = ctx.message().number(header::BATCH);
                // What cannot be read is safest alone.
                let written = written.map(|size| size.ok().and_then(|size| u16::try_from(size).ok()).unwrap_or(1));
                largest(written, self.setup.batching.size, ctx.attempt(), ctx.max_attempts())
            }
        };
        ctx.set_next_batch(shrunk(size));
        let (start, started) = oneshot::channel();
        self.add(size, Waiting { job, ctx, since: Instant::now(), start });
        match timeout(self.setup.batching.within + self.setup.timeout(), started).await {
            Ok(Ok(Started { result, _running })) => {
                result.await.unwrap_or_else(|_| Err("its batch ended without a result".into()))
            }
            Ok(Err(_)) => Err("its batch was not started".into()),
            Err(_) => Err(JobError::snooze(NO_SLOT)),
        }
    }

    fn add(self: &Arc<Self>, size: u16, waiting: Waiting<J, S>) {
        let mut groups = self.lock();
        let stop = waiting.ctx.draining();
        let is_new = !groups.contains_key(&size);
        let group = groups.entry(size).or_insert_with(|| Group { waiting: VecDeque::new(), full: Arc::default() });
        group.waiting.push_back(waiting);
        if group.waiting.len() >= usize::from(size) {
            group.full.notify_one();
        }
        if is_new {
            tokio::spawn(Arc::clone(self).gather(size, stop));
        }
    }

    /// Starts batches of a group until it is empty.
    async fn gather(self: Arc<Self>, size: u16, stop: CancellationToken) {
        while let Some((due, full)) = self.due(size) {
            tokio::select! {
                biased;
                () = self.is_full(size, &full) => {}
                () = stop.cancelled() => {}
                () = sleep_until(due) => {}
            }
            // A batch that waits for its slot still takes jobs.
            let Ok(slot) = Arc::clone(&self.setup.slots).acquire_owned().await else { return };
            let jobs = self.take(size);
            if !jobs.is_empty() {
                tokio::spawn(Arc::clone(&self).run(jobs, slot));
            }
        }
    }

    /// Returns when the next batch of a group is closed, full or not. Removes an empty group.
    fn due(&self, size: u16) -> Option<(Instant, Arc<Notify>)> {
        let mut groups = self.lock();
        let group = groups.get_mut(&size)?;
        group.waiting.retain(|waiting| !waiting.start.is_closed());
        match group.waiting.front() {
            Some(first) => Some((first.since + self.setup.batching.within, Arc::clone(&group.full))),
            None => {
                groups.remove(&size);
                None
            }
        }
    }

    async fn is_full(&self, size: u16, full: &Notify) {
        loop {
            let count = self.lock().get(&size).map_or(0, |group| group.waiting.len());
            if count >= usize::from(size) {
                return;
            }
            full.notified().await;
        }
    }

    /// Takes the jobs of a batch that is full or whose time is over.
    fn take(&self, size: u16) -> Vec<Waiting<J, S>> {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(&size) else { return Vec::new() };
        let count = group.waiting.len().min(size.into());
        group.waiting.drain(..count).collect()
    }

    /// Runs the handler on a batch, and reports the outcome of each job to its attempt.
    async fn run(self: Arc<Self>, waiting: Vec<Waiting<J, S>>, slot: OwnedSemaphorePermit) {
        let Some((limit, sizes)) = self.setup.started.get() else { return };
        let is_wanted = CancellationToken::new();
        let running = Arc::new(is_wanted.clone().drop_guard());
        let (mut jobs, mut attempts) = (Vec::with_capacity(waiting.len()), Vec::with_capacity(waiting.len()));
        for Waiting { job: payload, ctx, start, .. } in waiting {
            let (answer, result) = oneshot::channel();
            // An attempt that has ended meanwhile takes its job with it.
            if start.send(Started { result, _running: Arc::clone(&running) }).is_ok() {
                let failure = Arc::<Failure>::default();
                attempts.push((answer, Arc::clone(&failure), ctx.canceller()));
                jobs.push(BatchJob { payload, ctx, failure });
            }
        }
        drop(running);
        let (Some(first), count) = (jobs.first(), jobs.len()) else { return };
        sizes.observe(count as f64);
        let span = tracing::info_span!("batch", job = first.ctx.name(), queue = first.ctx.queue(), jobs = count);
        let deadline = Instant::now() + *limit;
        let handled = AssertUnwindSafe(async { (self.handler)(Batch { jobs, deadline }).await }).catch_unwind();
        let bounded = timeout_at(deadline, handled.instrument(span));
        let result = match is_wanted.run_until_cancelled(bounded).await {
            // Each of its attempts has ended.
            None => return,
            Some(Ok(Ok(result))) => result,
            Some(Ok(Err(panic))) => Err(panicked(&*panic)),
            Some(Err(_)) => {
                attempts.iter().for_each(|(.., canceller): &(_, _, Canceller<S>)| canceller.cancel());
                Err(JobError::new(Class::Timeout, format!("the handler overran its timeout of {limit:?}")))
            }
        };
        drop(slot);
        for (answer, failure, _) in attempts {
            let result = match &result {
                Ok(()) => failure.take().map_or(Ok(()), Err),
                Err(error) => Err(of_each(error, count)),
            };
            // The attempt may have ended meanwhile.
            drop(answer.send(result));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Group<J, S>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the error of each job of a batch that failed as a whole. A job that failed alone keeps its error. A job of a
/// larger batch is retried.
fn of_each(error: &JobError, count: usize) -> JobError {
    let (class, text) = match (error.class, count) {
        (class, 1) => (class, error.chain()),
        (Class::Permanent | Class::Decode | Class::Yield, _) => {
            (Class::Retry, format!("in a batch of {count}: {}", error.chain()))
        }
        (class, _) => (class, format!("in a batch of {count}: {}", error.chain())),
    };
    let mut each = JobError::new(class, text);
    // The service answered a batch that it refused, so the retries do not count against a circuit.
    each.blamed = error.blamed.or((error.class == Class::Permanent).then_some(&[]));
    each
}
