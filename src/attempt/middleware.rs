//! Code around every attempt, such as logging, tracing or rate limits.

use std::{fmt, sync::Arc};

use crate::{
    attempt::{
        context::Context,
        handler::{Erased, JobFuture},
    },
    error::{JobError, JobResult},
};

/// Code around every attempt of a worker. Every `async fn(Context<S>, Next<S>) -> Result<(), E>` is a middleware.
///
/// The first registered middleware is the outermost. It sees decode errors and the handler's errors, but neither panics
/// nor timeouts, which end it too.
///
/// ```
/// use leveret::{Context, JobResult, Next};
///
/// async fn log_slow_jobs(ctx: Context<()>, next: Next<()>) -> JobResult {
///     let started = std::time::Instant::now();
///     let result = next.run(ctx.clone()).await;
///     if started.elapsed().as_secs() > 10 {
///         tracing::warn!(job_id = %ctx.job_id(), "slow");
///     }
///     result
/// }
/// # let _ = leveret::Worker::new(()).middleware(log_slow_jobs);
/// ```
pub trait Middleware<S>: Send + Sync + 'static {
    /// Runs around one attempt; calls [`Next::run`] to let it happen.
    fn handle(&self, ctx: Context<S>, next: Next<S>) -> impl Future<Output = JobResult> + Send;
}

impl<F, Fut, E, S> Middleware<S> for F
where
    F: Fn(Context<S>, Next<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send,
    E: Into<JobError>,
    S: Send + Sync + 'static,
{
    async fn handle(&self, ctx: Context<S>, next: Next<S>) -> JobResult {
        self(ctx, next).await.map_err(Into::into)
    }
}

type ErasedMiddleware<S> = Arc<dyn Fn(Context<S>, Next<S>) -> JobFuture + Send + Sync>;

/// The middlewares of a worker, the outermost first.
pub(crate) struct Chain<S>(Vec<ErasedMiddleware<S>>);

impl<S: Send + Sync + 'static> Chain<S> {
    pub(crate) fn push(&mut self, middleware: impl Middleware<S>) {
        let middleware = Arc::new(middleware);
        self.0.push(Arc::new(move |ctx, next| {
            let middleware = Arc::clone(&middleware);
            Box::pin(async move { middleware.handle(ctx, next).await })
        }));
    }

    /// Wraps the handler in these middlewares.
    pub(crate) fn around(self, handler: Erased<S>) -> Erased<S> {
        if self.0.is_empty() {
            return handler;
        }
        let chain = Arc::new(self);
        Arc::new(move |ctx| Next::new(Arc::clone(&chain), Arc::clone(&handler)).start(ctx))
    }
}

impl<S> Default for Chain<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// The rest of an attempt after a middleware: the next middleware, or the handler.
///
/// ```
/// use leveret::{Context, JobError, JobResult, Next};
///
/// async fn closed_on_stop(ctx: Context<()>, next: Next<()>) -> JobResult {
///     if ctx.is_cancelled() { Err(JobError::snooze(std::time::Duration::from_secs(5))) } else { next.run(ctx).await }
/// }
/// # let _ = leveret::Worker::new(()).middleware(closed_on_stop);
/// ```
pub struct Next<S> {
    chain: Arc<Chain<S>>,
    index: usize,
    handler: Erased<S>,
}

impl<S> Next<S> {
    pub(crate) fn new(chain: Arc<Chain<S>>, handler: Erased<S>) -> Self {
        Self { chain, index: 0, handler }
    }

    /// Runs the rest of the attempt.
    ///
    /// # Errors
    ///
    /// The error that the handler or an inner middleware returned.
    pub async fn run(self, ctx: Context<S>) -> JobResult {
        self.start(ctx).await
    }

    pub(crate) fn start(mut self, ctx: Context<S>) -> JobFuture {
        let Some(middleware) = self.chain.0.get(self.index).cloned() else { return (self.handler)(ctx) };
        self.index += 1;
        middleware(ctx, self)
    }
}

impl<S> fmt::Debug for Next<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("left", &(self.chain.0.len() - self.index)).finish()
    }
}
