//! The settings of one handler.

use std::{
    fmt,
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::Duration,
};

use crate::{
    attempt::{
        gather::BatchSetup,
        handler::{Erased, decode},
        middleware::{Chain, Middleware},
        retry_policy::RetryPolicy,
    },
    error::JobError,
    job::Job,
    limits::Rate,
    message::Message,
    worker::spec::{HandlerSpec, KeyLimit},
};

/// The settings of one handler, for jobs of type `J` in a worker whose state is `S`.
///
/// [`Worker::handle_with`](crate::Worker::handle_with) and
/// [`Worker::handle_blocking_with`](crate::Worker::handle_blocking_with) pass the defaults to a closure, which returns them
/// changed. The order of the calls does not matter, except for [`middleware`](Self::middleware).
///
/// ```
/// use std::time::Duration;
/// use leveret::{Context, JobResult, Rate, RetryPolicy, Worker};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct SendEmail { customer: u64 }
/// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
/// # async fn send_email(_: SendEmail, _: Context<()>) -> JobResult { Ok(()) }
/// let worker = Worker::new(()).handle_with(send_email, |h| {
///     h.timeout(Duration::from_secs(30))
///         .retry(RetryPolicy::exponential().max_attempts(10))
///         .rate(Rate::per_second(100))
///         .concurrency_per(|job| job.customer, 2)
///         .circuit("smtp")
/// });
/// # let _ = worker;
/// ```
pub struct HandlerOptions<J, S> {
    spec: HandlerSpec<S>,
    chain: Chain<S>,
    read: fn(&Message) -> Result<J, JobError>,
}

impl<J: Job, S: Send + Sync + 'static> HandlerOptions<J, S> {
    pub(super) fn new(handler: Erased<S>) -> Self {
        Self::of((J::NAME, J::QUEUE.to_owned()), handler, J::schema, decode::<J>)
    }

    /// Sets the queue that the jobs are taken from; [`Job::QUEUE`](crate::Job::QUEUE) by default. It is for jobs that are
    /// published with [`NewJob::queue`](crate::NewJob::queue).
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.spec.queue = queue.into();
        self
    }

    /// Adds another name of the job, 1 to 255 bytes, such as the name that another framework uses. It need not have the
    /// form of a job name.
    ///
    /// A message has its name in the header `leveret-job` or the property `type`. Metrics and traces have the job's own
    /// name. May be called several times. See also [`Queue::any_type`](crate::Queue::any_type).
    ///
    /// ```
    /// # use leveret::{Context, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Nap;
    /// # impl leveret::Job for Nap { const NAME: &'static str = "nap"; const QUEUE: &'static str = "naps"; }
    /// # async fn nap(_: Nap, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).handle_with(nap, |h| h.alias("Acme.Contracts.Nap, Acme.Contracts"));
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn alias(mut self, name: &'static str) -> Self {
        self.spec.aliases.push(name);
        self
    }
}

impl<J: 'static, S: Send + Sync + 'static> HandlerOptions<J, S> {
    /// Returns the defaults of a handler of `job` on a queue; `read` decodes a message.
    pub(crate) fn of(
        (job, queue): (&'static str, String),
        handler: Erased<S>,
        schema: fn() -> Option<serde_json::Value>,
        read: fn(&Message) -> Result<J, JobError>,
    ) -> Self {
        let spec = HandlerSpec {
            job,
            aliases: Vec::new(),
            event: false,
            schema,
            queue,
            handler,
            retry: None,
            timeout: None,
            circuits: Vec::new(),
            rate: None,
            shared_rate: None,
            shared_concurrency: None,
            key: None,
            batch: None,
        };
        Self { spec, chain: Chain::default(), read }
    }

    pub(crate) fn into_spec(self) -> HandlerSpec<S> {
        let Self { mut spec, chain, .. } = self;
        spec.handler = chain.around(spec.handler);
        spec
    }

    pub(super) fn batch(mut self, setup: Arc<BatchSetup>) -> Self {
        self.spec.batch = Some(setup);
        self
    }

    /// Sets the retry policy; the queue's by default.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.spec.retry = Some(policy);
        self
    }

    /// Sets the timeout of an attempt; the queue's by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout = Some(timeout);
        self
    }

    /// Adds code around every attempt of this handler, inside the [worker's](crate::Worker::middleware). The first
    /// middleware added is the outermost.
    #[must_use]
    pub fn middleware(mut self, middleware: impl Middleware<S>) -> Self {
        self.chain.push(middleware);
        self
    }

    /// Limits how many attempts start in a time, in this worker.
    ///
    /// Each job over the limit reserves the next free slot and is delayed until then by the delay ladder, up to 0.1 s
    /// longer. No attempt is charged, and other jobs of the queue are not affected. For a short wait, of some
    /// milliseconds, the job waits in the worker instead; if the queue has no other handler, for a wait of up to a
    /// second.
    ///
    /// A slot sets when a job returns. Whether the job then starts depends on this worker's own starts in the last
    /// second. So a slot from another worker, an earlier worker or a publisher does not make more jobs start than the
    /// rate allows. A job that must not start yet gets another slot, behind the waiting jobs. So does a job that missed
    /// its slot by more than 5 s. At a rate of one a second or more a worker starts no such job in its first second,
    /// because the previous worker may have started one.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.spec.rate = Some(rate);
        self
    }

    /// Limits how many attempts run at once in this worker for one key, such as a customer: at least 1.
    ///
    /// A job that finds no free slot goes to the delay ladder, no attempt charged. The wait is estimated from how long these
    /// jobs take, and is at most a minute. A job may have to wait again. A key function that panics makes a failed
    /// attempt, of kind `panic`.
    ///
    /// ```
    /// # use leveret::{Context, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct SendEmail { customer: u64 }
    /// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
    /// # async fn send_email(_: SendEmail, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).handle_with(send_email, |h| h.concurrency_per(|job| job.customer, 2));
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn concurrency_per<K: Hash>(mut self, key: impl Fn(&J) -> K + Send + Sync + 'static, attempts: u32) -> Self {
        let read = self.read;
        let hasher = foldhash::fast::RandomState::default();
        self.spec.key = Some(KeyLimit {
            // Two keys of one hash share their slots, which is as rare as it is harmless.
            key_of: Arc::new(move |message| read(message).ok().map(|job| hasher.hash_one(key(&job)))),
            most: attempts,
        });
        self
    }

    /// Limits how many attempts start in a time in all workers together: those of all handlers that name this limit. All
    /// give the same rate.
    ///
    /// Slots are leased from the [store of limits](crate::Worker::limit_store) for a tenth of a second at a time; else it
    /// is as with [`rate`](Self::rate). While the store is unreachable, jobs wait.
    ///
    /// ```
    /// # use leveret::{Context, JobResult, Rate, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct SendEmail;
    /// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
    /// # async fn send_email(_: SendEmail, _: Context<()>) -> JobResult { Ok(()) }
    /// # fn doc(store: impl leveret::limits::LimitStore) -> Worker<()> {
    /// Worker::new(())
    ///     .limit_store(store)
    ///     .handle_with(send_email, |h| h.shared_rate("smtp", Rate::per_second(100)).shared_concurrency("smtp", 20))
    /// # }
    /// ```
    #[must_use]
    pub fn shared_rate(mut self, limit: impl Into<String>, rate: Rate) -> Self {
        self.spec.shared_rate = Some((limit.into(), rate));
        self
    }

    /// Limits how many attempts, at least 1, run at once in all workers together: those of all handlers that name this limit.
    ///
    /// Slots are leased from the [store of limits](crate::Worker::limit_store) for ten seconds and renewed. The slots of
    /// a worker that dies are free again when its lease ends. A worker that cannot reach the store starts nothing new after
    /// its lease, but finishes what it runs.
    #[must_use]
    pub fn shared_concurrency(mut self, limit: impl Into<String>, attempts: u32) -> Self {
        self.spec.shared_concurrency = Some((limit.into(), attempts));
        self
    }

    /// Makes the jobs wait while this circuit is open, no attempt charged. May be called for up to 64 circuits.
    ///
    /// The worker does not consume a queue while a circuit of each of its jobs is open. Jobs of other queues are delayed
    /// in the broker. One probe at a time tests for recovery. [`CircuitBreaker`](crate::CircuitBreaker) has the rules and
    /// their settings; a circuit that is only named here has the defaults.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Context, CircuitBreaker, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct SendEmail;
    /// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
    /// # async fn send_email(_: SendEmail, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(())
    ///     .circuit_breaker(CircuitBreaker::new("smtp").failures(3).open_for(Duration::from_secs(30)))
    ///     .handle_with(send_email, |h| h.circuit("smtp"));
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn circuit(mut self, name: &'static str) -> Self {
        self.spec.circuits.push(name);
        self
    }
}

impl<J, S> fmt::Debug for HandlerOptions<J, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerOptions")
            .field("job", &self.spec.job)
            .field("queue", &self.spec.queue)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use serde::{Deserialize, Serialize};

    use crate::{
        CircuitBreaker, Context, HandlerOptions, Job, JobResult, Next, Outcome, Rate, RetryPolicy, Worker,
        testing::perform,
    };

    type Options = HandlerOptions<Sweep, Seen>;
    type Seen = Arc<Mutex<Vec<&'static str>>>;

    #[derive(Serialize, Deserialize)]
    struct Sweep;

    impl Job for Sweep {
        const NAME: &'static str = "sweep";
        const QUEUE: &'static str = "house";
    }

    #[derive(Serialize, Deserialize)]
    struct Mop;

    impl Job for Mop {
        const NAME: &'static str = "mop";
        const QUEUE: &'static str = "house";
    }

    async fn sweep(_: Sweep, _: Context<Seen>) -> JobResult {
        Err("the broom is broken".into())
    }

    async fn mop(_: Mop, _: Context<Seen>) -> JobResult {
        Err("the mop is wet".into())
    }

    async fn outer(ctx: Context<Seen>, next: Next<Seen>) -> JobResult {
        ctx.state().lock().unwrap().push("of the worker");
        next.run(ctx).await
    }

    async fn inner(ctx: Context<Seen>, next: Next<Seen>) -> JobResult {
        ctx.state().lock().unwrap().push("of the handler");
        next.run(ctx).await
    }

    #[tokio::test]
    async fn settings_apply_to_their_own_handler_alone() {
        let worker = || Worker::new(Seen::default()).handle_with(sweep, |h| h.retry(RetryPolicy::none())).handle(mop);
        assert!(matches!(perform(worker(), &Sweep).await.unwrap(), Outcome::DeadLetter { .. }));
        assert!(matches!(perform(worker(), &Mop).await.unwrap(), Outcome::Retry { .. }));
    }

    #[tokio::test]
    async fn a_limit_out_of_its_bounds_stops_the_start_with_the_setting_the_value_and_the_bound() {
        let (second, most) = (Duration::from_secs(1), "at least 1 start, and at most 1 a nanosecond");
        let handler = |set: fn(Options) -> Options| Worker::new(Seen::default()).handle_with(sweep, set);
        let circuit = |breaker| handler(|h| h).circuit_breaker(breaker);
        let smtp = || CircuitBreaker::new("smtp");
        let wrong = [
            (handler(|h| h.rate(Rate::per_second(0))), "Rate::new", "(0, 1s)", most),
            (handler(|h| h.rate(Rate::new(2, Duration::from_nanos(1)))), "Rate::new", "(2, 1ns)", most),
            (handler(|h| h.shared_rate("api", Rate::per_second(1).burst(0))), "Rate::burst", "0", "at least 1"),
            (handler(|h| h.concurrency_per(|_| 1, 0)), "HandlerOptions::concurrency_per", "0", "at least 1"),
            (handler(|h| h.shared_concurrency("api", 0)), "HandlerOptions::shared_concurrency", "0", "at least 1"),
            (handler(|h| h.retry(RetryPolicy::none().max_attempts(0))), "RetryPolicy::max_attempts", "0", "at least 1"),
            (circuit(smtp().failures(0)), "CircuitBreaker::failures", "0", "at least 1"),
            (circuit(smtp().window(Duration::ZERO)), "CircuitBreaker::window", "0ns", "more than 0"),
            (circuit(smtp().open_for(second / 20)), "CircuitBreaker::open_for", "50ms", "at least 100ms"),
        ];
        for (worker, setting, value, bounds) in wrong {
            let said = perform(worker, &Sweep).await.unwrap_err().to_string();
            assert!(said.starts_with(&format!("{setting}: ")), "{said}");
            assert!(said.ends_with(&format!(" has {value}, which is out of range: set {bounds}")), "{said}");
        }
    }

    #[tokio::test]
    async fn middleware_of_a_handler_runs_inside_the_workers_and_around_no_other_handler() {
        let seen = Seen::default();
        let worker = || {
            let worker = Worker::new(Arc::clone(&seen)).handle_with(sweep, |h| h.middleware(inner)).handle(mop);
            worker.middleware(outer)
        };
        perform(worker(), &Sweep).await.unwrap();
        perform(worker(), &Mop).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["of the worker", "of the handler", "of the worker"]);
    }
}
