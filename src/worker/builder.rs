//! A worker: handlers, queues and state, put together once and run until told to stop.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::attempt::runtime::QueueRuntime;
use crate::worker::background::Background;
use crate::worker::runtime::{BoundQueue, routes};
use crate::{
    attempt::{
        context::Context,
        handler::{Erased, Handler, erase, erase_blocking},
        middleware::{Chain, Middleware},
        retry::RetryPolicy,
    },
    broker::Broker,
    config::Config,
    error::{Error, JobError},
    job::Job,
    limits::{
        LimitStore, Rate,
        circuit_breaker::{Breakers, CircuitBreaker},
        limiter::KeyOf,
    },
    observe::metrics::UNKNOWN,
    publish::{publisher::Publisher, unique::UniqueKeys},
    readers::catalogue,
    shutdown::Stop,
    worker::{consumer::Consumer, queue::Queue},
};

/// Handlers, their queues and the state they share.
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
///     .queue(Queue::new("email").concurrency(16).timeout(Duration::from_secs(30)))
///     .handle(send_email)
///     .run(&broker, shutdown_signal())
///     .await
/// # }
/// ```
pub struct Worker<S> {
    pub(super) state: Arc<S>,
    pub(super) queues: Vec<Queue>,
    pub(super) registered: Vec<HandlerSpec<S>>,
    pub(super) chain: Chain<S>,
    pub(super) dependencies: Vec<CircuitBreaker>,
    pub(super) permits: Option<Arc<dyn LimitStore>>,
    pub(super) unique_keys: Option<Arc<dyn UniqueKeys>>,
    pub(super) misplaced: Option<&'static str>,
    pub(crate) background: Vec<Box<dyn Background>>,
}

/// A handler as it was registered.
pub(super) struct HandlerSpec<S> {
    pub(super) job: &'static str,
    pub(super) aliases: Vec<&'static str>,
    pub(super) schema: fn() -> Option<serde_json::Value>,
    pub(super) queue: String,
    pub(super) handler: Erased<S>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) timeout: Option<Duration>,
    pub(super) needs: Vec<&'static str>,
    pub(super) rate: Option<Rate>,
    pub(super) shared_rate: Option<(String, Rate)>,
    pub(super) shared_concurrency: Option<(String, u32)>,
    pub(super) key: Option<KeyLimit>,
}

/// What limits depend on besides the worker itself.
pub(super) struct LimitDeps {
    pub(super) dependencies: Arc<Breakers>,
    pub(super) permits: Option<Arc<dyn LimitStore>>,
}

/// So many of a key at once, and the job that the key is read of.
pub(super) struct KeyLimit {
    pub(super) job: &'static str,
    pub(super) key_of: KeyOf,
    pub(super) most: u32,
}

impl<S: Send + Sync + 'static> Worker<S> {
    /// A worker whose handlers share `state`.
    #[must_use]
    pub fn new(state: S) -> Self {
        Self {
            state: Arc::new(state),
            queues: Vec::new(),
            registered: Vec::new(),
            chain: Chain::default(),
            dependencies: Vec::new(),
            permits: None,
            unique_keys: None,
            misplaced: None,
            background: Vec::new(),
        }
    }

    /// Sets how a queue is consumed. A queue that handlers name and nothing sets has [`Queue`]'s defaults.
    #[must_use]
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queues.push(queue);
        self
    }

    /// Registers the handler of a job type.
    ///
    /// It must not block its thread: [`handle_blocking`](Self::handle_blocking) is for handlers that do. One that blocks
    /// or computes for long at its start gets a task of its own each time, once the worker has seen it.
    #[must_use]
    pub fn handle<J: Job>(self, handler: impl Handler<J, S>) -> Self {
        self.register::<J>(erase(handler))
    }

    /// Registers a handler that computes or blocks: it runs on the blocking pool, under the same contract.
    ///
    /// A thread cannot be stopped from outside. One that overruns its timeout gets the verdict of a timeout and keeps its
    /// place in the queue's concurrency until it ends, even if a job waits for it here that another worker could run: let
    /// it ask [`Context::is_cancelled`] now and then.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Context, JobResult, RetryPolicy, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Sum { to: u64 }
    /// # impl leveret::Job for Sum { const NAME: &'static str = "sum"; const QUEUE: &'static str = "sums"; }
    /// fn sum(job: Sum, ctx: Context<()>) -> JobResult {
    ///     let total: u64 = (0..job.to).take_while(|_| !ctx.is_cancelled()).sum();
    ///     tracing::info!(total);
    ///     Ok(())
    /// }
    ///
    /// let worker = Worker::new(())
    ///     .handle_blocking(sum)
    ///     .on("large-sums")                       // these three are of the handler before them
    ///     .timeout(Duration::from_secs(600))
    ///     .retry(RetryPolicy::none());
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
        self.register::<J>(erase_blocking(handler))
    }

    fn register<J: Job>(mut self, handler: Erased<S>) -> Self {
        self.registered.push(HandlerSpec {
            job: J::NAME,
            aliases: Vec::new(),
            schema: J::schema,
            queue: J::QUEUE.to_owned(),
            handler,
            retry: None,
            timeout: None,
            needs: Vec::new(),
            rate: None,
            shared_rate: None,
            shared_concurrency: None,
            key: None,
        });
        self
    }

    /// Adds code around every attempt; the first one added is the outermost.
    #[must_use]
    pub fn middleware(mut self, middleware: impl Middleware<S>) -> Self {
        self.chain.push(middleware);
        self
    }

    /// Runs until `shutdown` is ready, then drains: takes no new job, finishes what runs until the drain timeout,
    /// cancels the rest and hands it back. It returns within the grace period of the broker handle's settings, also if a
    /// handler does not end; a thread that blocks ends with the process.
    ///
    /// # Errors
    ///
    /// Every error says what is wrong with the set-up and is found when the worker starts. A broker that is away is none:
    /// the worker waits for it.
    pub async fn run(mut self, broker: &Broker, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let stop = Stop::default();
        let publisher = self.publisher(broker);
        let mut background = Vec::new();
        for extension in std::mem::take(&mut self.background) {
            background.push(extension.start(&publisher, &stop)?);
        }
        let queues = self.bind(broker, &stop)?;
        let _cancellations = broker.cancellations().read(broker.transport());
        let entries = queues.iter().flat_map(|bound| bound.runtime.entries(broker.now_ms())).collect();
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
            () = shutdown => tracing::info!("stopping: no new jobs, finishing what runs"),
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
            () = cut_off(&stop, broker.config()) => tracing::error!("the worker is given up: something blocks its thread"),
        }
        result
    }

    /// Checks the set-up and puts together what each queue's consumers need.
    pub(crate) fn bind(self, broker: &Broker, stop: &Stop) -> Result<Vec<BoundQueue<S>>, Error> {
        if let Some(setting) = self.misplaced {
            let reason = "applies to the handler before it: call it after handle or handle_blocking".to_owned();
            return Err(Error::Setting { setting, reason });
        }
        let publisher = self.publisher(broker);
        let config = broker.config();
        config.check_drain()?;
        let mut queues = self.queues;
        for registered in &self.registered {
            if !queues.iter().any(|queue| queue.name() == registered.queue) {
                queues.push(Queue::new(registered.queue.as_str()));
            }
        }
        if queues.is_empty() {
            return Err(Error::NoHandler { queue: "(none)".to_owned() });
        }
        let chain = Arc::new(self.chain);
        let named = self.registered.iter().flat_map(|registered| registered.needs.iter().copied());
        let dependencies = Arc::new(Breakers::new(self.dependencies, named, broker.metrics()));
        let outside = LimitDeps { dependencies: Arc::clone(&dependencies), permits: self.permits };
        let mut bound = Vec::new();
        let mut names = HashSet::new();
        let mut registered = self.registered;
        for queue in queues {
            queue.check()?;
            if queue.declaration().is_existing() {
                tracing::warn!(
                    queue = queue.name(),
                    "adopted with its own arguments: unless they are ours, what the broker gives up itself (delivery \
                     limit, expiry, too large) is not kept in its dead letters, and a classic queue is one copy"
                );
            }
            for lane in queue.declaration().by_priority() {
                let name = lane.queue_name(queue.declaration());
                if names.contains(&name) {
                    let reason = format!("queue {name:?} is set twice, or is a lane of another");
                    return Err(Error::Setting { setting: "Worker::queue", reason });
                }
                names.insert(name);
            }
            let mine = registered.extract_if(.., |registered| registered.queue == queue.name()).collect();
            let (state, chain) = (Arc::clone(&self.state), Arc::clone(&chain));
            let (routes, by_name) = routes(broker, &queue, mine, &outside)?;
            let runtime = Arc::new(QueueRuntime {
                unknown: broker.metrics().job(queue.name(), UNKNOWN),
                broker: broker.clone(),
                publisher: publisher.clone(),
                stop: stop.clone(),
                queue: queue.declaration().clone(),
                takes_any_type: queue.takes_any_type(),
                state,
                chain,
                dependencies: Arc::clone(&dependencies),
                routes,
                by_name,
            });
            bound.push(BoundQueue { runtime, queue });
        }
        Ok(bound)
    }

    /// What its handlers and schedules publish with.
    fn publisher(&self, broker: &Broker) -> Publisher {
        let publisher = broker.publisher();
        match &self.unique_keys {
            Some(keys) => publisher.unique_in(Arc::clone(keys)),
            None => publisher,
        }
    }
}

/// Cancels what has not finished by the drain timeout, drops what does not notice, and ends when consumers had their time
/// to hand that back.
async fn cut_off(stop: &Stop, config: &Config) {
    let last = config.last_moments();
    tokio::time::sleep(config.drain_timeout).await;
    tracing::warn!("the drain timeout is over, cancelling what still runs");
    stop.cancel.cancel();
    tokio::time::sleep(last.cancelled).await;
    stop.abort.cancel();
    tokio::time::sleep(last.run).await;
}

fn flatten(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    match ended {
        Ok(result) => result,
        // A bug in the framework must not look like a worker that is merely idle.
        Err(error) => Err(Error::Setting { setting: "consumer", reason: format!("ended unexpectedly: {error}") }),
    }
}

impl<S> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs: Vec<_> = self.registered.iter().map(|registered| registered.job).collect();
        f.debug_struct("Worker").field("queues", &self.queues).field("jobs", &jobs).finish_non_exhaustive()
    }
}
