//! A worker: handlers, queues and state, built once and run until it is stopped.

use std::{collections::HashSet, fmt, sync::Arc};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    attempt::{
        context::Context,
        handler::{Erased, Handler, erase, erase_blocking},
        middleware::{Chain, Middleware},
        runtime::QueueRuntime,
    },
    broker::Broker,
    config::Config,
    error::{Error, JobError},
    job::Job,
    limits::{
        LimitStore,
        circuit_breaker::{Breakers, CircuitBreaker},
    },
    observe::metrics::UNKNOWN,
    publish::{publisher::Publisher, unique::UniqueKeys},
    readers::catalogue,
    shutdown::Stop,
    time::at_unix_ms,
    worker::{
        background::Background,
        consumer::Consumer,
        options::HandlerOptions,
        queue::Queue,
        runtime::{BoundQueue, Routes, check, check_subscriptions, routes},
        spec::{HandlerSpec, LimitDeps},
    },
};

/// Handlers, their queues and the state that they share.
///
/// ```no_run
/// use std::time::Duration;
/// use leveret::{Broker, Config, Context, JobResult, Queue, Worker, shutdown_signal};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct SendEmail { to: String }
/// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
///
/// async fn send_email(job: SendEmail, _ctx: Context<()>) -> JobResult {
///     println!("to {}", job.to);
///     Ok(())
/// }
///
/// # async fn doc() -> Result<(), leveret::Error> {
/// let broker = Broker::amqp(Config::default())?;
/// Worker::new(())
///     .queue(Queue::of::<SendEmail>().concurrency(16).timeout(Duration::from_secs(30)))
///     .handle(send_email)
///     .run(&broker, shutdown_signal())
///     .await
/// # }
/// ```
pub struct Worker<S> {
    state: Arc<S>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) handlers: Vec<HandlerSpec<S>>,
    /// The subscriptions that have settings, and what is wrong with the set-up already.
    pub(crate) subscribed: HashSet<String>,
    pub(crate) faults: Vec<Error>,
    chain: Chain<S>,
    breakers: Vec<CircuitBreaker>,
    limit_store: Option<Arc<dyn LimitStore>>,
    unique_keys: Option<Arc<dyn UniqueKeys>>,
    pub(crate) background: Vec<Box<dyn Background>>,
}

impl<S: Send + Sync + 'static> Worker<S> {
    /// Creates a worker whose handlers share `state`.
    #[must_use]
    pub fn new(state: S) -> Self {
        Self {
            state: Arc::new(state),
            queues: Vec::new(),
            handlers: Vec::new(),
            subscribed: HashSet::new(),
            faults: Vec::new(),
            chain: Chain::default(),
            breakers: Vec::new(),
            limit_store: None,
            unique_keys: None,
            background: Vec::new(),
        }
    }

    /// Sets how the worker consumes a queue. A queue that only handlers name has the defaults of [`Queue`].
    #[must_use]
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queues.push(queue);
        self
    }

    /// Registers the handler of a job type.
    ///
    /// The handler must not block its thread: [`handle_blocking`](Self::handle_blocking) is for handlers that do. The worker
    /// starts short handlers in the task that consumes the queue. A handler that computes for long before its first
    /// `.await` gets a task of its own once the worker has seen it.
    #[must_use]
    pub fn handle<J: Job>(self, handler: impl Handler<J, S>) -> Self {
        self.handle_with(handler, |options| options)
    }

    /// Registers the handler of a job type with settings of its own, such as its timeout, retry policy and limits.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Context, JobResult, Rate, RetryPolicy, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Resize { customer: u64 }
    /// # impl leveret::Job for Resize { const NAME: &'static str = "resize"; const QUEUE: &'static str = "images"; }
    /// # async fn resize(_: Resize, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).handle_with(resize, |h| {
    ///     h.timeout(Duration::from_secs(30)).retry(RetryPolicy::none()).rate(Rate::per_second(10)).circuit("s3")
    /// });
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn handle_with<J: Job>(
        self,
        handler: impl Handler<J, S>,
        set: impl FnOnce(HandlerOptions<J, S>) -> HandlerOptions<J, S>,
    ) -> Self {
        self.register(erase(handler), set)
    }

    /// Registers a handler that computes or blocks: it runs on the blocking pool, under the same contract.
    ///
    /// Rust cannot stop a thread from outside. The attempt of a handler that overruns its timeout ends as a timeout, but
    /// its thread keeps a slot of the queue's concurrency until the handler returns, even if a job waits for that slot
    /// that another worker could run. Let the handler ask [`Context::is_cancelled`] now and then.
    ///
    /// ```
    /// # use leveret::{Context, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Sum { to: u64 }
    /// # impl leveret::Job for Sum { const NAME: &'static str = "sum"; const QUEUE: &'static str = "sums"; }
    /// fn sum(job: Sum, ctx: Context<()>) -> JobResult {
    ///     let total: u64 = (0..job.to).take_while(|_| !ctx.is_cancelled()).sum();
    ///     tracing::info!(total);
    ///     Ok(())
    /// }
    ///
    /// let worker = Worker::new(()).handle_blocking(sum);
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn handle_blocking<J, F, T, E>(self, handler: F) -> Self
    where
        J: Job,
        F: Fn(J, Context<S>) -> Result<T, E> + Send + Sync + 'static,
        T: Serialize,
        E: Into<JobError>,
    {
        self.handle_blocking_with(handler, |options| options)
    }

    /// Registers a handler that computes or blocks with settings of its own, as [`handle_with`](Self::handle_with) does.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Context, JobResult, RetryPolicy, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Sum { to: u64 }
    /// # impl leveret::Job for Sum { const NAME: &'static str = "sum"; const QUEUE: &'static str = "sums"; }
    /// # fn sum(_: Sum, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).handle_blocking_with(sum, |h| {
    ///     h.queue("large-sums").timeout(Duration::from_secs(600)).retry(RetryPolicy::none())
    /// });
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn handle_blocking_with<J, F, T, E>(
        self,
        handler: F,
        set: impl FnOnce(HandlerOptions<J, S>) -> HandlerOptions<J, S>,
    ) -> Self
    where
        J: Job,
        F: Fn(J, Context<S>) -> Result<T, E> + Send + Sync + 'static,
        T: Serialize,
        E: Into<JobError>,
    {
        self.register(erase_blocking(handler), set)
    }

    pub(super) fn register<J: Job>(
        mut self,
        handler: Erased<S>,
        set: impl FnOnce(HandlerOptions<J, S>) -> HandlerOptions<J, S>,
    ) -> Self {
        self.handlers.push(set(HandlerOptions::new(handler)).into_spec());
        self
    }

    /// Adds code around every attempt; the first middleware added is the outermost.
    #[must_use]
    pub fn middleware(mut self, middleware: impl Middleware<S>) -> Self {
        self.chain.push(middleware);
        self
    }

    /// Sets the rules of a circuit that handlers name ([`HandlerOptions::circuit`]).
    #[must_use]
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breakers.push(breaker);
        self
    }

    /// Sets the store of the limits that workers share, such as leveret-store's `Store`.
    #[must_use]
    pub fn limit_store(mut self, store: impl LimitStore) -> Self {
        self.limit_store = Some(Arc::new(store));
        self
    }

    /// Sets the store of unique keys for everything that this worker publishes: jobs of its schedules, and jobs that
    /// handlers publish with [`Context::publisher`](crate::Context::publisher). A worker whose schedule publishes a
    /// [unique](crate::NewJob::unique) job does not start without one.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// use leveret::{Context, IfTaken, JobResult, Worker, unique::InMemory};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Import {}
    /// # impl leveret::Job for Import { const NAME: &'static str = "import"; const QUEUE: &'static str = "imports"; }
    /// # #[derive(Serialize, Deserialize)] struct Index {}
    /// # impl leveret::Job for Index { const NAME: &'static str = "index"; const QUEUE: &'static str = "index"; }
    /// async fn import(_: Import, ctx: Context<()>) -> JobResult {
    ///     let hour = Duration::from_secs(3600);
    ///     ctx.publisher().publish(&Index {}).unique("all", hour).if_taken(IfTaken::Existing).await?;
    ///     Ok(())
    /// }
    ///
    /// let worker = Worker::new(()).unique_in(Arc::new(InMemory::default())).handle(import);
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn unique_in(mut self, keys: Arc<dyn UniqueKeys>) -> Self {
        self.unique_keys = Some(keys);
        self
    }

    /// Runs until `shutdown` completes, then drains: the worker starts no new job and lets the running ones finish
    /// until the drain timeout. Then it cancels the rest and requeues it. It returns within the grace period of the
    /// broker handle's settings, even if a handler does not end. A blocked thread ends with the process.
    ///
    /// # Errors
    ///
    /// Every error names a fault in the setup and occurs at the start. An unreachable broker is no error: the worker
    /// waits for it.
    pub async fn run(mut self, broker: &Broker, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let stop = Stop::default();
        let publisher = self.publisher(broker);
        let mut background = Vec::new();
        for extension in std::mem::take(&mut self.background) {
            background.push(extension.start(&publisher, &stop)?);
        }
        let queues = self.bind(broker, &stop)?;
        let _cancellations = broker.cancellations().read(broker.transport());
        let entries = queues.iter().flat_map(|bound| bound.runtime.entries(at_unix_ms(broker.now_ms()))).collect();
        let _announcing = AbortOnDropHandle::new(tokio::spawn(catalogue::announce(broker.clone(), entries)));
        let mut consumers = JoinSet::new();
        for bound in queues {
            for consumer in Consumer::all(&bound) {
                consumers.spawn(consumer.run());
            }
        }
        let mut beside = JoinSet::new();
        for tasks in background {
            tasks.awaited.into_iter().for_each(|task| drop(consumers.spawn(task)));
            tasks.dropped.into_iter().for_each(|task| drop(beside.spawn(task)));
        }
        let mut result = Ok(());
        tokio::select! {
            () = shutdown => tracing::info!("stopping: no new jobs, finishing the running ones"),
            Some(ended) = consumers.join_next() => result = flatten(ended),
        }
        let _draining = broker.health().drain();
        stop.drain.cancel();
        let drained = async {
            while let Some(ended) = consumers.join_next().await {
                let ended = flatten(ended);
                if result.is_ok() {
                    result = ended;
                }
            }
        };
        tokio::select! {
            () = drained => {}
            // Consumers whose thread is blocked end with the process.
            () = cut_off(&stop, broker.config()) => tracing::error!("the worker did not stop in time: a handler blocks its thread"),
        }
        result
    }

    /// Returns the names of all queues and subscriptions.
    pub(crate) fn queue_names(&self) -> Vec<String> {
        let own = self.queues.iter().map(|queue| queue.name().to_owned());
        own.chain(self.handlers.iter().map(|handler| handler.queue.clone())).collect()
    }

    /// Checks the setup and builds the runtime of each queue.
    pub(crate) fn bind(mut self, broker: &Broker, stop: &Stop) -> Result<Vec<BoundQueue<S>>, Error> {
        let publisher = self.publisher(broker);
        broker.config().check_drain()?;
        if !self.faults.is_empty() {
            return Err(self.faults.swap_remove(0));
        }
        check_subscriptions(&self.queues, &self.handlers)?;
        let mut queues = self.queues;
        for handler in &self.handlers {
            if !queues.iter().any(|queue| queue.name() == handler.queue) {
                queues.push(Queue::new(handler.queue.as_str()));
            }
        }
        if queues.is_empty() {
            return Err(Error::NoHandler { queue: "(none)".to_owned() });
        }
        let chain = Arc::new(self.chain);
        let named = self.handlers.iter().flat_map(|handler| handler.circuits.iter().copied());
        for breaker in &self.breakers {
            breaker.check()?;
        }
        let breakers = Arc::new(Breakers::new(self.breakers, named, broker.metrics()));
        let limits = LimitDeps { breakers: Arc::clone(&breakers), store: self.limit_store };
        let mut bound = Vec::new();
        let mut names = HashSet::new();
        let mut handlers = self.handlers;
        for mut queue in queues {
            queue.take_batches(&handlers)?;
            check(&queue, &mut names)?;
            let mine = handlers.extract_if(.., |handler| handler.queue == queue.name()).collect();
            let (state, chain) = (Arc::clone(&self.state), Arc::clone(&chain));
            let Routes { routes, by_name, patterns } = routes(broker, &queue, mine, &limits)?;
            let runtime = Arc::new(QueueRuntime {
                unknown: broker.metrics().job(queue.name(), UNKNOWN),
                broker: broker.clone(),
                publisher: publisher.clone(),
                stop: stop.clone(),
                queue: queue.declaration().clone(),
                takes_any_type: queue.takes_any_type(),
                replies_anywhere: queue.replies_to_any(),
                state,
                chain,
                dependencies: Arc::clone(&breakers),
                routes,
                by_name,
                patterns,
                retry_unknown: queue.declaration().is_subscription().then(|| queue.retry_policy().clone()),
            });
            bound.push(BoundQueue { runtime, queue });
        }
        Ok(bound)
    }

    /// Returns the publisher for handlers and schedules.
    fn publisher(&self, broker: &Broker) -> Publisher {
        let publisher = broker.publisher();
        match &self.unique_keys {
            Some(keys) => publisher.unique_in(Arc::clone(keys)),
            None => publisher,
        }
    }
}

/// Cancels unfinished attempts at the drain timeout, drops those that do not stop, and completes once the consumers had
/// time to requeue them.
async fn cut_off(stop: &Stop, config: &Config) {
    let last = config.stop_timeouts();
    tokio::time::sleep(config.drain_timeout).await;
    tracing::warn!("the drain timeout is over, cancelling the running jobs");
    stop.cancel.cancel();
    tokio::time::sleep(last.cancelled).await;
    stop.abort.cancel();
    tokio::time::sleep(last.run).await;
}

fn flatten(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    match ended {
        Ok(result) => result,
        // A bug in the framework must not appear as an idle worker.
        Err(error) => Err(Error::Stopped(error.into())),
    }
}

impl<S> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs: Vec<_> = self.handlers.iter().map(|handler| handler.job).collect();
        f.debug_struct("Worker").field("queues", &self.queues).field("jobs", &jobs).finish_non_exhaustive()
    }
}
