//! Runs handlers and workers beside a test.

use std::{sync::OnceLock, time::Duration};

use tokio::{sync::SetOnce, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::{
        admission::Incoming,
        context::{self, Context},
        run as attempt,
    },
    broker::Broker,
    error::Error,
    job::{Job, JobId},
    message::{Message, header},
    outcome::Outcome,
    shutdown::Stop,
    topology::lane::Lane,
    worker::builder::Worker,
};

/// Runs one attempt at a job through the real path: JSON and back, middleware, handler, timeout, panic guard, outcome.
///
/// ```
/// use leveret::{Context, JobError, JobResult, Outcome, Worker, testing::perform};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "charge", queue = "money")]
/// # struct Charge { cents: i64 }
///
/// async fn charge(job: Charge, _ctx: Context<()>) -> JobResult {
///     if job.cents < 0 { Err(JobError::permanent("negative amount")) } else { Ok(()) }
/// }
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let worker = || Worker::new(()).handle(charge);
/// assert_eq!(perform(worker(), &Charge { cents: 5 }).await?, Outcome::Done);
/// assert!(matches!(perform(worker(), &Charge { cents: -5 }).await?, Outcome::DeadLetter { .. }));
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Error::Encode`] if the job does not serialise. Otherwise [`Error`] if the worker cannot start, or has no handler for
/// the job.
pub async fn perform<J: Job, S: Send + Sync + 'static>(worker: Worker<S>, job: &J) -> Result<Outcome, Error> {
    let body = serde_json::to_vec(job).map_err(Error::Encode)?;
    perform_raw(worker, J::QUEUE, J::NAME, &body, 1).await
}

/// Like [`perform`], with any payload, valid or not, and with the given attempt number.
///
/// ```
/// # use leveret::{Context, ErrorKind, JobResult, Outcome, Worker, testing::perform_raw};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "charge", queue = "money")]
/// # struct Charge { cents: i64 }
/// # async fn charge(_: Charge, _: Context<()>) -> JobResult { Ok(()) }
/// # #[tokio::main] async fn main() -> Result<(), leveret::Error> {
/// let outcome = perform_raw(Worker::new(()).handle(charge), "money", "charge", b"{}", 1).await?;
/// assert!(matches!(outcome, Outcome::DeadLetter { kind: ErrorKind::Decode, .. }));
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Error`] if the worker cannot start, or has no handler for the job.
pub async fn perform_raw<S: Send + Sync + 'static>(
    worker: Worker<S>,
    queue: &str,
    job: &str,
    payload: &[u8],
    attempt: u32,
) -> Result<Outcome, Error> {
    let broker = Broker::memory();
    let queues = worker.bind(&broker, &Stop::default())?;
    let found = queues.iter().map(|bound| &bound.runtime).find(|runtime| runtime.queue.name() == queue);
    let found = found.and_then(|handlers| Some((handlers, &handlers.routes[handlers.find(Some(job))?])));
    let Some((handlers, route)) = found else {
        return Err(Error::NoHandler { queue: format!("{queue} (job {job})") });
    };
    let mut message = Message::new(job, &JobId::mint(), payload.to_vec(), broker.now_ms());
    message.set_time(header::ATTEMPT, attempt.into());
    let received = Incoming::read(message, false, broker.now());
    let ctx = Context::new(context::Inner {
        handlers: handlers.clone(),
        received: received.into(),
        job_id: OnceLock::new(),
        lane: Lane::Main,
        max_attempts: route.retry.attempts(),
        deadline: Instant::now() + route.timeout,
        overran: SetOnce::new(),
        tracked: None,
        permit: None,
        permits: Vec::new(),
        circuits: None,
    });
    Ok(attempt::run(route, handlers.chain.clone(), ctx, None, None).await)
}

/// A worker that runs beside a test; see [`start`].
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

/// Starts a worker beside the test, on any broker, and returns once it consumes. Jobs can then be published.
///
/// See [`dead_letters`](super::dead_letters) for an example.
///
/// # Errors
///
/// The error of [`Worker::run`] for a worker that cannot start.
///
/// # Panics
///
/// Panics if the worker panics.
#[expect(clippy::expect_used, reason = "a panic of the worker must fail the test")]
pub async fn start<S: Send + Sync + 'static>(worker: Worker<S>, broker: &Broker) -> Result<Running, Error> {
    let (stop, on) = (CancellationToken::new(), broker.clone());
    let (stopped, queues) = (stop.clone(), worker.queue_names());
    let mut running =
        Running { stop, task: tokio::spawn(async move { worker.run(&on, stopped.cancelled_owned()).await }) };
    // Other workers on the handle may be ready before this one.
    while !queues.iter().all(|queue| broker.consumes(queue)) || broker.unready().is_some() {
        tokio::select! {
            ended = &mut running.task => {
                ended.expect("the worker does not panic")?;
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    Ok(running)
}

impl Running {
    /// Stops the worker and waits until it has drained.
    ///
    /// # Errors
    ///
    /// The error that [`Worker::run`] returned.
    ///
    /// # Panics
    ///
    /// Panics if the worker panicked.
    #[expect(clippy::expect_used, reason = "a panic of the worker must fail the test")]
    pub async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.task.await.expect("the worker does not panic")
    }
}
