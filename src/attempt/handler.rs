//! Handlers, and the place where a job's type is erased.

use std::{pin::Pin, sync::Arc};

use serde::Serialize;

use crate::{
    attempt::{admission::Incoming, context::Context, tracked::Tracked},
    error::{Class, JobError, JobResult},
    job::Job,
    message::{Message, decode::decode_as},
};

/// Handles jobs of type `J` in a worker whose state is `S`.
///
/// Every `async fn(J, Context<S>) -> Result<T, E>` is a handler if `E` converts into [`JobError`] and `T` is the
/// result: `()`, or a value that serialises to JSON. The last [status update](crate::status_update) of a tracked job
/// has the result, up to 64 KiB, and so has the reply to a [request](crate::Publisher::request). A type that needs
/// fields of its own implements the trait by hand.
///
/// When the attempt times out, the worker drops the future at the `.await` that it has reached.
///
/// ```
/// use leveret::{Context, Handler, JobResult};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Resize { width: u32 }
/// # impl leveret::Job for Resize { const NAME: &'static str = "resize"; const QUEUE: &'static str = "images"; }
/// # #[derive(Serialize, Deserialize)] struct Ping;
/// # impl leveret::Job for Ping { const NAME: &'static str = "ping"; const QUEUE: &'static str = "ping"; }
///
/// #[derive(Serialize)]
/// struct Thumbnail { key: String }
///
/// async fn resize(job: Resize, ctx: Context<()>) -> JobResult<Thumbnail> {
///     Ok(Thumbnail { key: format!("{}-{}", ctx.job_id(), job.width) })
/// }
///
/// struct Greeter { greeting: String }
///
/// impl Handler<Ping, ()> for Greeter {
///     type Output = ();
///
///     async fn handle(&self, _job: Ping, ctx: Context<()>) -> JobResult {
///         println!("{} {}", self.greeting, ctx.job_id());
///         Ok(())
///     }
/// }
/// # let _ = leveret::Worker::new(()).handle(resize).handle(Greeter { greeting: "hello".into() });
/// ```
pub trait Handler<J, S>: Send + Sync + 'static {
    /// The result of a job; `()` for none.
    type Output: Serialize + Send;

    /// Runs one attempt.
    fn handle(&self, job: J, ctx: Context<S>) -> impl Future<Output = JobResult<Self::Output>> + Send;
}

impl<F, Fut, T, E, J, S> Handler<J, S> for F
where
    F: Fn(J, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send,
    T: Serialize + Send,
    E: Into<JobError>,
    J: Send,
    S: Send + Sync,
{
    type Output = T;

    async fn handle(&self, job: J, ctx: Context<S>) -> JobResult<T> {
        self(job, ctx).await.map_err(Into::into)
    }
}

pub(crate) type JobFuture = Pin<Box<dyn Future<Output = JobResult> + Send>>;

/// A handler without its job's type, which decodes the message itself.
pub(crate) type Erased<S> = Arc<dyn Fn(Context<S>) -> JobFuture + Send + Sync>;

/// Erases the job's type of an async handler.
pub(crate) fn erase<J: Job, S: Send + Sync + 'static>(handler: impl Handler<J, S>) -> Erased<S> {
    erase_with(handler, decode::<J>)
}

/// Erases the type of an async handler of what `read` makes of a message.
pub(crate) fn erase_with<T, S>(handler: impl Handler<T, S>, read: fn(&Message) -> Result<T, JobError>) -> Erased<S>
where
    T: Send + 'static,
    S: Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |ctx| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let job = read(ctx.message())?;
            let keeper = ctx.result_keeper();
            keep(&keeper, &handler.handle(job, ctx).await?);
            Ok(())
        })
    })
}

/// Erases the job's type of a handler that computes or blocks. The handler runs on the blocking pool.
pub(crate) fn erase_blocking<J, S, F, T, E>(handler: F) -> Erased<S>
where
    J: Job,
    S: Send + Sync + 'static,
    F: Fn(J, Context<S>) -> Result<T, E> + Send + Sync + 'static,
    T: Serialize,
    E: Into<JobError>,
{
    let handler = Arc::new(handler);
    Arc::new(move |ctx| {
        let handler = Arc::clone(&handler);
        let work = move || {
            // If it waited for a thread until its time was over, another attempt has its slot by now.
            if ctx.has_overrun() {
                return Err(JobError::new(Class::Timeout, "no thread was free to run it in time"));
            }
            let job = decode::<J>(ctx.message())?;
            let keeper = ctx.result_keeper();
            keep(&keeper, &handler(job, ctx).map_err(Into::into)?);
            Ok(())
        };
        Box::pin(async move {
            match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(error) if error.is_panic() => Err(panicked(&*error.into_panic())),
                Err(error) => Err(error.into()),
            }
        })
    })
}

/// The destinations of a job's result: its last status update, its reply, its workflow.
pub(crate) struct ResultKeeper {
    pub(crate) tracked: Option<Arc<Tracked>>,
    pub(crate) requested: Option<Arc<Incoming>>,
}

impl<S> Context<S> {
    /// Returns where the result of the job goes, if anything reads it.
    pub(crate) fn result_keeper(&self) -> ResultKeeper {
        let received = &self.inner.received;
        let is_read = received.reply.is_some() || received.step.is_some();
        let requested = is_read.then(|| Arc::clone(received));
        let tracked = self.inner.tracked.clone().filter(|_| received.envelope.track);
        ResultKeeper { tracked, requested }
    }
}

/// Keeps the result of a job for its last status update, its reply and its workflow.
pub(crate) fn keep(keeper: &ResultKeeper, result: &impl Serialize) {
    if let Some(tracked) = &keeper.tracked {
        tracked.keep_result(result);
    }
    if let Some(requested) = &keeper.requested {
        requested.keep_result(result);
    }
}

/// Decodes the job of a message.
pub(crate) fn decode<J: Job>(message: &Message) -> Result<J, JobError> {
    decode_as(message, J::NAME)
}

/// Returns the error for a handler's panic.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> JobError {
    panic_of("the handler", panic)
}

/// Returns the error for a panic of the user's code; `code` names that code.
pub(crate) fn panic_of(code: &str, panic: &(dyn std::any::Any + Send)) -> JobError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    JobError::new(Class::Panic, format!("{code} panicked: {}", text.unwrap_or("with a value that is not text")))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use serde::{Deserialize, Serialize};

    use crate::{
        Broker, Context, ErrorKind, Job, JobResult, Outcome, Queue, RetryPolicy, Worker,
        testing::{self, perform_raw},
    };

    #[derive(Serialize, Deserialize)]
    struct Count;

    impl Job for Count {
        const NAME: &'static str = "count";
        const QUEUE: &'static str = "counts";
    }

    #[test]
    fn a_blocking_attempt_that_found_no_thread_in_time_does_not_run_beside_the_next() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        fn count(_: Count, _: Context<()>) -> JobResult {
            RUNS.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let holder = tokio::task::spawn_blocking(move || held.recv());
            let broker = Broker::memory();
            let queue = Queue::new("counts").timeout(Duration::from_millis(50)).retry(RetryPolicy::none());
            let running = testing::start(Worker::new(()).queue(queue).handle_blocking(count), &broker).await.unwrap();
            broker.publisher().publish(&Count).await.unwrap();
            while testing::dead_letters(&broker, "counts").await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            release.send(()).unwrap();
            holder.await.unwrap().unwrap();
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert_eq!(RUNS.load(Ordering::SeqCst), 0);
            running.stop().await.unwrap();
        });
    }
    #[tokio::test]
    async fn a_byte_order_mark_before_the_json_is_skipped_and_another_encoding_is_named() {
        async fn count(_: Count, _: Context<()>) -> JobResult {
            Ok(())
        }
        let run = async |payload: &[u8]| {
            let outcome = perform_raw(Worker::new(()).handle(count), "counts", "count", payload, 1).await.unwrap();
            match outcome {
                Outcome::DeadLetter { kind: ErrorKind::Decode, reason } => reason,
                other => format!("{other:?}"),
            }
        };
        assert_eq!(run(b"\xef\xbb\xbfnull").await, "Done");
        assert!(run(b"\xff\xfen\0u\0l\0l\0").await.contains("it is UTF-16; send UTF-8 JSON"));
        assert!(run(b"\0\0\xfe\xff\0\0\0n").await.contains("UTF-32"));
    }
}
