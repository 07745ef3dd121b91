//! Subscriptions: handlers of events.
//!
//! A subscription is a job queue of its name, bound to the topics of its handlers. Its retries, limits, dead letters and
//! circuits are those of a job queue, and concern this subscription alone. A new service subscribes without any change
//! at the publisher.

mod raw;
mod subscription;

pub use self::{raw::RawEvent, subscription::Subscription};
use crate::{
    attempt::handler::{Handler, erase_with},
    error::{Error, JobError},
    event::Event,
    topology::EACH_PROCESS,
    worker::{builder::Worker, options::HandlerOptions},
};

/// The argument of a handler of events: an [`Event`], or [`RawEvent`] for the topics of a pattern.
pub trait FromEvent: sealed::Read {}

impl<E: Event> FromEvent for E {}
impl FromEvent for RawEvent {}

mod sealed {
    use super::{Event, JobError, RawEvent};
    use crate::message::{Message, decode::decode_event_as};

    /// A message, whose type is not public.
    #[derive(Debug)]
    pub struct Incoming<'a>(pub(crate) &'a Message);

    pub trait Read: Sized + Send + 'static {
        /// The topic of a type that has one.
        const TOPIC: Option<&'static str>;

        fn read(incoming: Incoming<'_>) -> Result<Self, JobError>;
    }

    impl<E: Event> Read for E {
        const TOPIC: Option<&'static str> = Some(E::TOPIC);

        fn read(incoming: Incoming<'_>) -> Result<Self, JobError> {
            decode_event_as(incoming.0, E::TOPIC)
        }
    }

    impl Read for RawEvent {
        const TOPIC: Option<&'static str> = None;

        fn read(incoming: Incoming<'_>) -> Result<Self, JobError> {
            Self::new(incoming.0)
        }
    }
}

impl<S: Send + Sync + 'static> Worker<S> {
    /// Registers a handler of events in a subscription.
    ///
    /// The handler takes the events of its type, or with [`RawEvent`] those of the subscription's
    /// [patterns](Subscription::pattern). Several calls with one name give a subscription several handlers. The most
    /// specific handler of a topic gets its events.
    ///
    /// An event that no handler takes is retried by the policy of the subscription, and then dead-lettered. While a deploy
    /// rolls, the bindings of new processes bring new types of events to old processes too.
    ///
    /// ```
    /// use leveret::{Context, Event, JobResult, RawEvent, Subscription, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize, Event)]
    /// #[event(topic = "order.placed")]
    /// struct OrderPlaced { order: String }
    ///
    /// async fn reserve(event: OrderPlaced, ctx: Context<()>) -> JobResult {
    ///     println!("{} of {}", event.order, ctx.job_id());
    ///     Ok(())
    /// }
    ///
    /// async fn log(event: RawEvent, _ctx: Context<()>) -> JobResult {
    ///     println!("{}: {} bytes", event.topic(), event.payload().len());
    ///     Ok(())
    /// }
    ///
    /// let worker = Worker::new(())
    ///     .subscribe(Subscription::new("warehouse"), reserve)
    ///     .subscribe(Subscription::new("audit").pattern("order.*"), log);
    /// # let _ = worker;
    /// ```
    ///
    /// # Errors
    ///
    /// [`run`](Self::run) returns an error for a topic or pattern that is not valid, for two handlers of one topic, for
    /// two patterns that share topics where none is more specific, and for a subscription with the name of a job queue of
    /// this worker.
    #[must_use]
    pub fn subscribe<E: FromEvent>(self, subscription: Subscription, handler: impl Handler<E, S>) -> Self {
        self.subscribe_with(subscription, handler, |options| options)
    }

    /// Registers a handler of events with settings of its own, as [`handle_with`](Self::handle_with) does.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Context, JobResult, Rate, Subscription, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, leveret::Event)] #[event(topic = "order.placed")]
    /// # struct OrderPlaced { customer: u64 }
    /// # async fn reserve(_: OrderPlaced, _: Context<()>) -> JobResult { Ok(()) }
    /// let worker = Worker::new(()).subscribe_with(Subscription::new("warehouse"), reserve, |h| {
    ///     h.timeout(Duration::from_secs(5)).rate(Rate::per_second(50)).concurrency_per(|event| event.customer, 1)
    /// });
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn subscribe_with<E: FromEvent>(
        mut self,
        subscription: Subscription,
        handler: impl Handler<E, S>,
        set: impl FnOnce(HandlerOptions<E, S>) -> HandlerOptions<E, S>,
    ) -> Self {
        match self.add(subscription, handler, set) {
            Ok(()) => {}
            Err(reason) => self.faults.push(Error::Setting { setting: "Worker::subscribe", reason }),
        }
        self
    }

    fn add<E: FromEvent>(
        &mut self,
        subscription: Subscription,
        handler: impl Handler<E, S>,
        set: impl FnOnce(HandlerOptions<E, S>) -> HandlerOptions<E, S>,
    ) -> Result<(), String> {
        let Subscription { mut queue, patterns, is_set } = subscription;
        let name = queue.name().to_owned();
        let topics = match E::TOPIC {
            Some(topic) if patterns.is_empty() => vec![topic],
            Some(topic) => {
                return Err(format!(
                    "subscription {name:?} has a pattern for the handler of {topic:?}, which takes that topic only: give \
                     the pattern to a handler of RawEvent"
                ));
            }
            None if patterns.is_empty() => {
                return Err(format!(
                    "subscription {name:?} has a handler of RawEvent without a pattern: set one with Subscription::pattern"
                ));
            }
            None => patterns,
        };
        if name == EACH_PROCESS && !queue.declaration().is_each_process() {
            return Err(format!("subscription {name:?} has the name of Subscription::each_process: choose another"));
        }
        let read = |message: &crate::message::Message| E::read(sealed::Incoming(message));
        let erased = erase_with(handler, read);
        let mut spec = set(HandlerOptions::of((topics[0], name.clone()), erased, || None, read)).into_spec();
        (spec.aliases, spec.event) = (topics[1..].to_vec(), true);
        self.handlers.push(spec);
        let known = self.queues.iter_mut().find(|known| known.name() == name && known.declaration().is_subscription());
        if let Some(known) = known {
            let before: Vec<_> = known.declaration().topics().to_vec();
            if is_set && self.subscribed.contains(&name) {
                return Err(format!("subscription {name:?} has settings in two calls: set them in one of them"));
            }
            if is_set {
                std::mem::swap(known, &mut queue);
            }
            known.subscribe(before.iter().map(String::as_str).chain(topics));
        } else {
            queue.subscribe(topics);
            self.queues.push(queue);
        }
        if is_set {
            self.subscribed.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
