//! A registered handler, and its limits.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    attempt::{gather::BatchSetup, handler::Erased, retry_policy::RetryPolicy},
    broker::Broker,
    error::Error,
    limits::{
        LimitStore, Rate,
        circuit_breaker::{Breaker, Breakers},
        keyed::KeyedSemaphore,
        limiter::{Deferred, KeyOf, Limiter, in_place},
        rate_limiter::{RateLimiter, Starts, opens},
        shared::{SharedConcurrency, SharedRate},
    },
    message::LONGEST_NAME,
    worker::queue::Queue,
};

/// A registered handler.
pub(crate) struct HandlerSpec<S> {
    /// The job's name; for a handler of events, its topic or first pattern.
    pub(crate) job: &'static str,
    pub(crate) aliases: Vec<&'static str>,
    /// Set if `job` and `aliases` are topics and patterns.
    pub(crate) event: bool,
    pub(super) schema: fn() -> Option<serde_json::Value>,
    pub(super) queue: String,
    pub(super) handler: Erased<S>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) timeout: Option<Duration>,
    pub(super) circuits: Vec<&'static str>,
    pub(super) rate: Option<Rate>,
    pub(super) shared_rate: Option<(String, Rate)>,
    pub(super) shared_concurrency: Option<(String, u32)>,
    pub(super) key: Option<KeyLimit>,
    pub(super) batch: Option<Arc<BatchSetup>>,
}

/// The facts that the limits of all handlers share.
pub(super) struct LimitDeps {
    pub(super) breakers: Arc<Breakers>,
    pub(super) store: Option<Arc<dyn LimitStore>>,
}

/// A limit for each key.
pub(super) struct KeyLimit {
    pub(super) key_of: KeyOf,
    pub(super) most: u32,
}

impl<S> HandlerSpec<S> {
    fn check_bounds(&self) -> Result<(), Error> {
        let of = format!("job {:?}", self.job);
        if let Some(policy) = &self.retry {
            policy.check(&of)?;
        }
        for rate in self.rate.iter().chain(self.shared_rate.as_ref().map(|(_, rate)| rate)) {
            rate.check(self.job)?;
        }
        if self.key.as_ref().is_some_and(|key| key.most == 0) {
            return Err(Error::bounds("HandlerOptions::concurrency_per", &of, 0, "at least 1"));
        }
        if self.shared_concurrency.as_ref().is_some_and(|(_, most)| *most == 0) {
            return Err(Error::bounds("HandlerOptions::shared_concurrency", &of, 0, "at least 1"));
        }
        Ok(())
    }

    /// Returns the limits of its jobs, if there are any.
    pub(super) fn limiter(
        &mut self,
        broker: &Broker,
        queue: &Queue,
        outside: &LimitDeps,
        is_alone: bool,
    ) -> Result<Option<Arc<Limiter>>, Error> {
        let wrong = |setting, reason| Err(Error::Setting { setting, reason });
        self.check_bounds()?;
        if let Some(name) = self.aliases.iter().find(|name| !(1..=LONGEST_NAME).contains(&name.len())) {
            return wrong(
                "HandlerOptions::alias",
                format!("alias {name:?} of {:?} must have 1 to 255 bytes", self.job),
            );
        }
        if self.circuits.len() > 64 {
            return wrong("HandlerOptions::circuit", format!("job {:?} names more than 64 circuits", self.job));
        }
        let LimitDeps { breakers, store } = outside;
        let needs: Vec<Arc<Breaker>> = self.circuits.iter().filter_map(|name| breakers.get(name)).cloned().collect();
        let own = self.rate.take().map(|rate| (rate, opens(rate)));
        // Slots of a shared limit come from the store, which knows the starts of every worker.
        let shared = self.shared_rate.as_ref().map(|(_, rate)| (*rate, Instant::now()));
        let starts = own.into_iter().chain(shared).map(|(rate, opens)| Starts::new(rate, opens)).collect();
        let (rate, key) = (own.map(|(rate, opens)| RateLimiter::new(rate, opens)), self.key.take());
        let (shared_rate, shared_concurrency) = (self.shared_rate.take(), self.shared_concurrency.take());
        let shares = shared_rate.is_some() || shared_concurrency.is_some();
        if !shares && needs.is_empty() && rate.is_none() && key.is_none() {
            return Ok(None);
        }
        if shares && store.is_none() {
            return wrong("Worker::limit_store", format!("job {:?} has a shared limit, and no store is set", self.job));
        }
        let store = || store.clone();
        let shared_rate = shared_rate.zip(store()).map(|((name, rate), store)| SharedRate::new(name, rate, store));
        let usable = u32::from(queue.limit()) + 1;
        let concurrency = |((name, most), store)| SharedConcurrency::new(name, most, usable, store);
        let counter = |reason| broker.metrics().held(queue.name(), self.job, reason);
        Ok(Some(Arc::new(Limiter {
            needs,
            key: key.map(|limit| (limit.key_of, limit.most, Arc::new(KeyedSemaphore::default()))),
            rate,
            shared_rate,
            starts,
            shared_concurrency: shared_concurrency.zip(store()).map(concurrency),
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
