//! What is set of one job: each of these is of the handler registered before it.

use std::{
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::Duration,
};

use super::{KeyLimit, Registered, Worker};
use crate::{
    breaker::{Breaker, Dependencies, Dependency},
    broker::Broker,
    error::Error,
    handler::decode,
    job::Job,
    limit::{
        Rate,
        gate::{Gate, Held, in_place},
        line::Line,
        places::Places,
    },
    queue::Queue,
    retry::RetryPolicy,
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

    /// Limits how many attempts at the job registered last start in a time, in this worker.
    ///
    /// A job over the limit goes to the delay ladder until its own slot, less than 0.1 s longer, and runs when it is back:
    /// the n-th that waits gets the n-th slot. No attempt is charged, and other jobs of the queue flow on. A wait of some
    /// milliseconds, or of up to a second where the queue has no other handler, is waited here. A slot that is missed by
    /// more than 5 s, because no worker ran or the queue was long, is lost, and the job gets another.
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
    /// the wait is estimated from how long these jobs take, at most a minute, and a job may have to wait again.
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

    /// Says that the job registered last needs this dependency: while it is down, jobs wait for it, no attempt charged.
    ///
    /// A queue all of whose jobs need what is down is not consumed meanwhile; jobs of other queues are delayed in the
    /// broker. One job at a time is let through to see whether it is up again. Of [`Dependency`] are the rules and their
    /// settings; those that are only named here have its defaults.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Context, Dependency, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct SendEmail;
    /// # impl leveret::Job for SendEmail { const NAME: &'static str = "email.send"; const QUEUE: &'static str = "email"; }
    /// # async fn send_email(_: SendEmail, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(())
    ///     .dependency(Dependency::new("smtp").failures(3).open_for(Duration::from_secs(30)))
    ///     .handle(send_email)
    ///     .needs("smtp");
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn needs(self, dependency: &'static str) -> Self {
        self.set("Worker::needs", |last| last.needs.push(dependency))
    }

    /// Sets when a dependency is taken for down. See [`needs`](Self::needs).
    #[must_use]
    pub fn dependency(mut self, dependency: Dependency) -> Self {
        self.dependencies.push(dependency);
        self
    }

    fn set(mut self, setting: &'static str, set: impl FnOnce(&mut Registered<S>)) -> Self {
        match self.registered.last_mut() {
            Some(last) => set(last),
            None => self.misplaced = Some(setting),
        }
        self
    }
}

impl<S> Registered<S> {
    /// What its jobs have to pass, if anything.
    pub(super) fn gate(
        &mut self,
        broker: &Broker,
        queue: &Queue,
        dependencies: &Arc<Dependencies>,
        is_alone: bool,
    ) -> Result<Option<Arc<Gate>>, Error> {
        let wrong = |setting, reason| Err(Error::Setting { setting, reason });
        if let Some(other) = self.key.as_ref().map(|key| key.job).filter(|job| *job != self.job) {
            return wrong("Worker::concurrency_per", format!("its key is of job {other:?}, not of {:?}", self.job));
        }
        if self.needs.len() > 64 {
            return wrong("Worker::needs", format!("job {:?} needs more than 64 dependencies", self.job));
        }
        let needs: Vec<Arc<Breaker>> = self.needs.iter().filter_map(|name| dependencies.get(name)).cloned().collect();
        let (rate, key) = (self.rate.take().map(Line::new), self.key.take());
        if needs.is_empty() && rate.is_none() && key.is_none() && dependencies.is_empty() {
            return Ok(None);
        }
        let counter = |reason| broker.metrics().held(queue.name(), self.job, reason);
        Ok(Some(Arc::new(Gate {
            dependencies: Arc::clone(dependencies),
            needs,
            key: key.map(|limit| (limit.key_of, limit.most, Arc::new(Places::default()))),
            rate,
            in_place: in_place(queue.limit(), is_alone),
            held: Held { dependency: counter("dependency"), key: counter("key"), rate: counter("rate") },
        })))
    }
}
