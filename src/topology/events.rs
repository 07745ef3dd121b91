//! The objects of events: their exchange, the queues of subscriptions and the log.

use std::time::SystemTime;

use crate::{
    error::Error,
    message::origin::TOPICS,
    names,
    topology::{Argument, Destination, ExchangeKind, Plan, QueueDeclaration, QueuePlan, Topology, arguments::text},
};

/// The time in milliseconds after which the broker deletes a queue of one connection that has no consumer.
pub(crate) const UNUSED_MS: i64 = 60_000;
/// The name under which a worker and its metrics know the queue of
/// [`Subscription::each_process`](crate::Subscription::each_process).
pub(crate) const EACH_PROCESS: &str = "each-process";
/// Events that wait in such a queue before the broker drops the oldest.
pub(crate) const EACH_PROCESS_MOST: usize = 10_000;
/// The time that the log keeps events, unless a policy says otherwise.
const LOG_KEPT: &str = "30D";

/// The place in the log of events at which a reader starts.
///
/// ```
/// use leveret::event_log::Start;
///
/// let since = Start::Time(std::time::SystemTime::now() - std::time::Duration::from_secs(3600));
/// assert_ne!(since, Start::First);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest event that the log still has.
    First,
    /// The newest events; a few events before the last may come too.
    Last,
    /// Events that are emitted from now on.
    Next,
    /// Events from about this time on. The broker starts up to some minutes earlier.
    Time(SystemTime),
    /// The event with this number, or the oldest event after it that the log still has.
    Offset(u64),
}

/// The part of a declaration that makes a queue a subscription.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscribed {
    topics: Vec<String>,
    keep_last: Option<u32>,
    each_process: bool,
}

impl QueueDeclaration {
    /// Binds the queue to a topic, or to a pattern for topics; see [`Subscription`](crate::Subscription).
    ///
    /// ```
    /// use leveret::topology::{QueueDeclaration, Topology};
    ///
    /// let warehouse = QueueDeclaration::new("warehouse").topic("order.*");
    /// let plan = Topology::new("leveret.v1").of_queue(&warehouse);
    /// let shown: Vec<_> = plan.bindings.iter().map(|binding| binding.to_string()).collect();
    /// assert!(shown.contains(&"leveret.v1.topics -[order.*]-> queue warehouse".to_owned()));
    /// ```
    #[must_use]
    pub fn topic(mut self, pattern: impl Into<String>) -> Self {
        let (subscribed, pattern) = (self.subscribed.get_or_insert_default(), pattern.into());
        if !subscribed.topics.contains(&pattern) {
            subscribed.topics.push(pattern);
        }
        self
    }

    /// Limits the queue to so many waiting messages, of which the broker drops the oldest; see
    /// [`Subscription::keep_last`](crate::Subscription::keep_last).
    #[must_use]
    pub fn keep_last(mut self, messages: u32) -> Self {
        self.subscribed.get_or_insert_default().keep_last = Some(messages);
        self
    }

    /// Creates the declaration of the queue that each process has for itself.
    pub(crate) fn each_process() -> Self {
        let subscribed = Subscribed { each_process: true, ..Subscribed::default() };
        let mut own = Self::new(EACH_PROCESS);
        own.subscribed = Some(Box::new(subscribed));
        own
    }

    /// Returns the topics and patterns that the queue is bound to.
    pub(crate) fn topics(&self) -> &[String] {
        self.subscribed.as_ref().map_or(&[], |subscribed| &subscribed.topics)
    }

    pub(crate) fn is_subscription(&self) -> bool {
        self.subscribed.is_some()
    }

    pub(crate) fn kept_events(&self) -> Option<u32> {
        self.subscribed.as_ref()?.keep_last
    }

    pub(crate) fn is_each_process(&self) -> bool {
        self.subscribed.as_ref().is_some_and(|subscribed| subscribed.each_process)
    }

    /// Checks the name and the topics of a subscription.
    pub(super) fn check_subscription(&self) -> Result<(), Error> {
        let Some(subscribed) = &self.subscribed else { return Ok(()) };
        let wrong = |setting, reason| Err(Error::Setting { setting, reason });
        let name = self.name();
        if let Err(rule) = names::subscription(name) {
            return wrong("Subscription::new", format!("subscription {name:?}: {rule}"));
        }
        for topic in &subscribed.topics {
            let rule = if topic.contains(['*', '#']) { names::pattern(topic) } else { names::topic(topic) };
            if let Err(rule) = rule {
                return wrong("Worker::subscribe", format!("subscription {name:?} has the topic {topic:?}: {rule}"));
            }
        }
        if subscribed.keep_last == Some(0) {
            let of = format!("subscription {name:?}");
            return Err(Error::bounds("Subscription::keep_last", &of, 0, "at least 1"));
        }
        Ok(())
    }
}

impl Topology {
    /// Returns the exchange that events are published to, by topic.
    #[must_use]
    pub fn topics(&self) -> String {
        format!("{}{TOPICS}", self.namespace)
    }

    /// Returns the stream that keeps all events, if it is declared.
    #[must_use]
    pub fn event_log(&self) -> String {
        self.stream(super::Stream::EventLog)
    }

    /// Returns the objects of the log of events. Nothing declares it unless it is asked for.
    #[must_use]
    pub fn of_event_log(&self) -> Plan {
        let name = self.event_log();
        let mut plan = Plan::default();
        plan.exchange(&self.topics(), ExchangeKind::Topic, None);
        let arguments = vec![
            ("x-queue-type", text("stream")),
            ("x-max-age", text(LOG_KEPT)),
            ("x-queue-leader-locator", text("balanced")),
        ];
        plan.queue(&name, arguments);
        plan.bind(&self.topics(), "#", Destination::Queue(name));
        plan
    }

    /// Returns the queue of one process with its bindings; a new name each time.
    pub(crate) fn of_each_process(&self, queue: &QueueDeclaration) -> (String, Plan) {
        let name = format!("{}.each.{}", self.namespace, uuid::Uuid::now_v7());
        let mut plan = Plan::default();
        let arguments = vec![
            ("x-queue-type", text("classic")),
            ("x-max-length", Argument::Integer(queue.kept_events().map_or(EACH_PROCESS_MOST as i64, i64::from))),
            ("x-overflow", text("drop-head")),
            // Of an attempt to subscribe that failed, and of a session that has ended on a connection that lasts.
            ("x-expires", Argument::Integer(UNUSED_MS)),
        ];
        plan.queues.push(QueuePlan { name: name.clone(), adopted: false, exclusive: true, arguments });
        for topic in queue.topics() {
            plan.bind(&self.topics(), topic, Destination::Queue(name.clone()));
        }
        (name, plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_a_job_queue_with_bindings_to_its_topics() {
        let topology = Topology::new("ns");
        let plan = topology.of_queue(&QueueDeclaration::new("audit").topic("order.*").topic("mail.sent"));
        let names: Vec<_> = plan.queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["audit.dead", "audit.suspect", "audit"]);
        let job = topology.of_queue(&QueueDeclaration::new("audit"));
        assert_eq!(plan.queues, job.queues);
        let more: Vec<_> =
            plan.bindings.iter().filter(|known| !job.bindings.contains(known)).map(ToString::to_string).collect();
        assert_eq!(more, ["ns.topics -[order.*]-> queue audit", "ns.topics -[mail.sent]-> queue audit"]);
    }

    #[test]
    fn only_the_subscriptions_own_queue_has_a_length_limit_and_what_it_drops_is_no_dead_letter() {
        let plan = Topology::new("ns").of_queue(&QueueDeclaration::new("prices").topic("price.*").keep_last(7));
        let limited: Vec<_> = plan.queues.iter().filter(|queue| queue.argument("x-max-length").is_some()).collect();
        assert_eq!(limited.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>(), ["prices"]);
        assert_eq!(limited[0].argument("x-overflow"), Some(&text("drop-head")));
        assert_eq!(limited[0].argument("x-dead-letter-exchange"), None);
    }

    #[test]
    fn a_bad_name_topic_or_limit_is_refused_with_the_rule() {
        let of = |queue: QueueDeclaration| queue.check().unwrap_err().to_string();
        let plain = || QueueDeclaration::new("audit");
        for (queue, parts) in [
            (
                QueueDeclaration::new("leveret.x").topic("a"),
                ["Subscription::new", "leveret.x", "not start with leveret."],
            ),
            (plain().topic("order*"), ["Worker::subscribe", "order*", "* (one word)"]),
            (plain().topic("leveret.x"), ["Worker::subscribe", "leveret.x", "not start with leveret."]),
            (plain().topic("t".repeat(256)), ["Worker::subscribe", "audit", "1 to 255 bytes"]),
            (plain().topic("a").keep_last(0), ["Subscription::keep_last", "audit", "at least 1"]),
        ] {
            let error = of(queue);
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
