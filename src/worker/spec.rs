//! What is set of one job: each of these is of the handler registered before it.

use std::{
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::worker::builder::{HandlerSpec, KeyLimit, LimitDeps, Worker};
use crate::{
    attempt::{handler::decode, retry::RetryPolicy},
    broker::Broker,
    error::Error,
    job::Job,
    limits::{
        LimitStore, Rate,
        circuit_breaker::{Breaker, CircuitBreaker},
        keyed::KeyedSemaphore,
        limiter::{Deferred, Limiter, in_place},
        rate_limiter::{RateLimiter, Starts, opens},
        shared::{SharedPlaces, SharedRate},
    },
    message::LONGEST_NAME,
    publish::unique::UniqueKeys,
    worker::queue::Queue,
};

impl<S: Send + Sync + 'static> Worker<S> {
    /// Sets the retry policy of the job registered last, instead of its queue's.
    #[must_use]
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.set("Worker::retry", |last| last.retry = Some(policy))
    }

    /// Sets the timeout of the job registered last, instead of its queue's.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set("Worker::timeout", |last| last.timeout = Some(timeout))
    }

    /// Takes the job registered last from this queue instead of its own, for jobs that are published with
    /// [`Publish::queue`](crate::Publish::queue).
    #[must_use]
    pub fn on(self, queue: impl Into<String>) -> Self {
        self.set("Worker::on", |last| last.queue = queue.into())
    }

    /// Takes messages of this name for the job registered last, too: a name that another framework gives, which need not
    /// be of the form of Leveret's own. A message has it in the header `leveret-job` or the property `type`. Metrics and
    /// traces have the job's own name. May be called several times. See also
    /// [`Queue::any_type`](crate::Queue::any_type).
    ///
    /// ```
    /// # use leveret::{Context, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Nap;
    /// # impl leveret::Job for Nap { const NAME: &'static str = "nap"; const QUEUE: &'static str = "naps"; }
    /// # async fn nap(_: Nap, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).handle(nap).alias("Acme.Contracts.Nap, Acme.Contracts");
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn alias(self, name: &'static str) -> Self {
        self.set("Worker::alias", |last| last.aliases.push(name))
    }

    /// Limits how many attempts at the job registered last start in a time, in this worker.
    ///
    /// A job over the limit goes to the delay ladder until its own slot, less than 0.1 s longer, and runs when it is back:
    /// the n-th that waits gets the n-th slot. No attempt is charged, and other jobs of the queue flow on. A wait of some
    /// milliseconds, or of up to a second where the queue has no other handler, is waited here. A slot says when a job
    /// comes back; whether it starts then, this worker's own starts of the last second decide. So no slot of another
    /// worker, of one that ran before, or of a publisher makes more jobs start than the rate. A job that must not start
    /// yet gets another slot, behind those that wait, and so does one that missed its slot by more than 5 s. With a rate of
    /// one a second or more a worker starts no such job in its first second, because the worker before it may have.
    ///
    /// ```
    /// # use leveret::{Context, JobResult, Rate, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct SendEmail;
    /// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
    /// # async fn send_email(_: SendEmail, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).handle(send_email).rate(Rate::per_second(100).burst(10));
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn rate(self, rate: Rate) -> Self {
        self.set("Worker::rate", |last| last.rate = Some(rate))
    }

    /// Limits how many attempts at the job registered last run at once in this worker for one key, such as a customer.
    ///
    /// A job that finds no place goes to the delay ladder, no attempt charged. When a place will be free nobody knows:
    /// the wait is estimated from how long these jobs take, at most a minute, and a job may have to wait again. A key that
    /// panics is a failed attempt, of kind `panic`.
    ///
    /// With a handler of another job type than `J` before it, the worker does not start.
    ///
    /// ```
    /// # use leveret::{Context, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct SendEmail { customer: u64 }
    /// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
    /// # async fn send_email(_: SendEmail, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).handle(send_email).concurrency_per(|job: &SendEmail| job.customer, 2);
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn concurrency_per<J: Job, K: Hash>(
        self,
        key: impl Fn(&J) -> K + Send + Sync + 'static,
        attempts: u32,
    ) -> Self {
        let hasher = foldhash::fast::RandomState::default();
        let limit = KeyLimit {
            job: J::NAME,
            // Two keys of one hash share their places, which is as rare as it is harmless.
            key_of: Arc::new(move |message| decode::<J>(message).ok().map(|job| hasher.hash_one(key(&job)))),
            most: attempts.max(1),
        };
        self.set("Worker::concurrency_per", |last| last.key = Some(limit))
    }

    /// Limits how many attempts start in a time in all workers together: those at jobs that are registered with this name
    /// of a limit, the job registered last among them. All give the same rate.
    ///
    /// Slots are leased from the [permits](Self::permits) for a tenth of a second at a time; else it is as with
    /// [`rate`](Self::rate). While the store is away, jobs wait.
    #[must_use]
    pub fn shared_rate(self, limit: impl Into<String>, rate: Rate) -> Self {
        self.set("Worker::shared_rate", |last| last.shared_rate = Some((limit.into(), rate)))
    }

    /// Limits how many attempts run at once in all workers together, likewise.
    ///
    /// Places are leased for ten seconds and renewed. A worker that dies gives them back with the end of its lease; one
    /// that cannot reach the store starts nothing new after it, but what it runs goes on.
    #[must_use]
    pub fn shared_concurrency(self, limit: impl Into<String>, attempts: u32) -> Self {
        self.set("Worker::shared_concurrency", |last| {
            last.shared_concurrency = Some((limit.into(), attempts.max(1)));
        })
    }

    /// Sets the store of the limits that workers share, such as leveret-store's `Store`.
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
    ///     .handle(send_email)
    ///     .shared_rate("smtp", Rate::per_second(100))
    ///     .shared_concurrency("smtp", 20)
    /// # }
    /// ```
    #[must_use]
    pub fn limit_store(mut self, permits: impl LimitStore) -> Self {
        self.permits = Some(Arc::new(permits));
        self
    }

    /// Sets the store of unique keys for what this worker publishes: its schedules, and handlers with
    /// [`Context::publisher`](crate::Context::publisher). A worker whose schedule publishes a
    /// [unique](crate::Publish::unique) job does not start without one.
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

    /// Says that the job registered last needs this dependency: while it is down, jobs wait for it, no attempt charged.
    ///
    /// A queue all of whose jobs need what is down is not consumed meanwhile; jobs of other queues are delayed in the
    /// broker. One job at a time is let through to see whether it is up again. Of [`CircuitBreaker`] are the rules and their
    /// settings; those that are only named here have its defaults.
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
    ///     .handle(send_email)
    ///     .circuit("smtp");
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn circuit(self, dependency: &'static str) -> Self {
        self.set("Worker::circuit", |last| last.needs.push(dependency))
    }

    /// Sets when a dependency is taken for down. See [`needs`](Self::circuit).
    #[must_use]
    pub fn circuit_breaker(mut self, dependency: CircuitBreaker) -> Self {
        self.dependencies.push(dependency);
        self
    }

    fn set(mut self, setting: &'static str, set: impl FnOnce(&mut HandlerSpec<S>)) -> Self {
        match self.registered.last_mut() {
            Some(last) => set(last),
            None => self.misplaced = Some(setting),
        }
        self
    }
}

impl<S> HandlerSpec<S> {
    /// What its jobs have to pass, if anything.
    pub(super) fn limiter(
        &mut self,
        broker: &Broker,
        queue: &Queue,
        outside: &LimitDeps,
        is_alone: bool,
    ) -> Result<Option<Arc<Limiter>>, Error> {
        let wrong = |setting, reason| Err(Error::Setting { setting, reason });
        if let Some(other) = self.key.as_ref().map(|key| key.job).filter(|job| *job != self.job) {
            return wrong("Worker::concurrency_per", format!("its key is of job {other:?}, not of {:?}", self.job));
        }
        if let Some(name) = self.aliases.iter().find(|name| !(1..=LONGEST_NAME).contains(&name.len())) {
            return wrong("Worker::alias", format!("alias {name:?} of {:?} must have 1 to 255 bytes", self.job));
        }
        if self.needs.len() > 64 {
            return wrong("Worker::circuit", format!("job {:?} needs more than 64 dependencies", self.job));
        }
        let LimitDeps { dependencies, permits } = outside;
        let needs: Vec<Arc<Breaker>> = self.needs.iter().filter_map(|name| dependencies.get(name)).cloned().collect();
        let own = self.rate.take().map(|rate| (rate, opens(rate)));
        // A shared limit's slots are the store's, which knows what any worker started.
        let shared = self.shared_rate.as_ref().map(|(_, rate)| (*rate, Instant::now()));
        let starts = own.into_iter().chain(shared).map(|(rate, opens)| Starts::new(rate, opens)).collect();
        let (rate, key) = (own.map(|(rate, opens)| RateLimiter::new(rate, opens)), self.key.take());
        let (shared_rate, shared_places) = (self.shared_rate.take(), self.shared_concurrency.take());
        let shares = shared_rate.is_some() || shared_places.is_some();
        if !shares && needs.is_empty() && rate.is_none() && key.is_none() {
            return Ok(None);
        }
        if shares && permits.is_none() {
            return wrong("Worker::limit_store", format!("job {:?} has a shared limit, and no store is set", self.job));
        }
        let permits = || permits.clone();
        let shared_rate =
            shared_rate.zip(permits()).map(|((name, rate), permits)| SharedRate::new(name, rate, permits));
        let usable = u32::from(queue.limit()) + 1;
        let places = |((name, most), permits)| SharedPlaces::new(name, most, usable, permits);
        let counter = |reason| broker.metrics().held(queue.name(), self.job, reason);
        Ok(Some(Arc::new(Limiter {
            needs,
            key: key.map(|limit| (limit.key_of, limit.most, Arc::new(KeyedSemaphore::default()))),
            rate,
            shared_rate,
            starts,
            shared_places: shared_places.zip(permits()).map(places),
            in_place: in_place(queue.limit(), is_alone),
            held: Deferred {
                circuit: counter("circuit"),
                key: counter("key"),
                concurrency: counter("concurrency"),
                rate: counter("rate"),
            },
        })))
    }
}
