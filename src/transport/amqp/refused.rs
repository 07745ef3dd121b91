//! Remembers refusals for which the broker has closed a channel.
//!
//! RabbitMQ answers a publish that it does not accept by closing the channel. All other publishes on that channel lose
//! their confirms with it. A refusal that would repeat is remembered here, so that it affects other publishes only
//! once. A message over the broker's size limit is not sent again. An exchange without write permission, and a topic
//! without topic permission, are tried on a channel of their own.

use std::{collections::HashMap, hash::Hash, time::Duration};

use lapin::types::ShortString;
use tokio::time::Instant;

use crate::transport::amqp::confirm::shown;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The most refused topics in memory, because publishers choose them. Beyond, all are learned anew.
const MOST_TOPICS: usize = 1_000;

/// The decision about a publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SendDecision {
    Send,
    /// The publish uses a channel of its own, because the broker has refused its exchange or topic before.
    SendAlone,
    /// The publish is refused with the broker's earlier text.
    Refuse(String),
}

/// The refusals of one publishing task.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The largest body that the broker accepts, and its text.
    largest: Option<(usize, String)>,
    exchanges: HashMap<ShortString, RefusedPlace>,
    /// Topics, by exchange and routing key. The exchange accepts others.
    topics: HashMap<(ShortString, ShortString), RefusedPlace>,
}

/// An exchange or a topic.
#[derive(Debug)]
struct RefusedPlace {
    text: String,
    /// The next pause depends on the kept one, and no task sleeps for it. So it is no [`Backoff`](crate::backoff::Backoff).
    pause: Duration,
    next_try: Instant,
}

impl Refusals {
    /// Records why the broker closed a channel.
    pub(super) fn learn(&mut self, text: &str, now: Instant) {
        if let Some((_, largest)) = text.split_once("max size ")
            && text.contains("message size ")
            && let Ok(largest) = leading_digits(largest).parse()
        {
            self.largest = Some((largest, text.to_owned()));
        }
        if !text.contains("ACCESS_REFUSED") {
            return;
        }
        if let Some((exchange, topic)) = topic_in(text) {
            if self.topics.len() >= MOST_TOPICS {
                self.topics.clear();
            }
            RefusedPlace::learn(&mut self.topics, (exchange.into(), topic.into()), text, now);
        } else if let Some(exchange) = exchange_in(text) {
            RefusedPlace::learn(&mut self.exchanges, exchange.into(), text, now);
        }
    }

    /// Decides about a publish to `exchange` under `key` with a body of `size` bytes.
    pub(super) fn admit(
        &mut self,
        (exchange, key): (&ShortString, &ShortString),
        size: usize,
        now: impl FnOnce() -> Instant,
    ) -> SendDecision {
        if let Some((largest, text)) = &self.largest
            && size > *largest
        {
            return SendDecision::Refuse(text.clone());
        }
        if self.exchanges.is_empty() && self.topics.is_empty() {
            return SendDecision::Send;
        }
        let refused = match self.exchanges.get_mut(shown(exchange)) {
            None => self.topics.get_mut(&(exchange.clone(), key.clone())),
            refused => refused,
        };
        let Some(refused) = refused else { return SendDecision::Send };
        let now = now();
        if now < refused.next_try {
            return SendDecision::Refuse(refused.text.clone());
        }
        refused.next_try = now + refused.pause;
        SendDecision::SendAlone
    }

    /// Records that the broker accepted a publish to `exchange` under `key`.
    pub(super) fn accepted(&mut self, exchange: &ShortString, key: &ShortString) {
        if !self.exchanges.is_empty() {
            self.exchanges.remove(shown(exchange));
        }
        if !self.topics.is_empty() {
            self.topics.remove(&(exchange.clone(), key.clone()));
        }
    }
}

impl RefusedPlace {
    /// Records one more refusal, with a longer pause than after the last.
    fn learn<P: Eq + Hash>(places: &mut HashMap<P, Self>, place: P, text: &str, now: Instant) {
        let before = places.get(&place).map(|refused| refused.pause * 2);
        let pause = before.unwrap_or(FIRST_PAUSE).min(LONGEST_PAUSE);
        places.insert(place, Self { text: text.to_owned(), pause, next_try: now + pause });
    }
}

/// Returns the exchange and the topic that the broker names: `topic 'TOPIC' in exchange topic 'NAME' in vhost`.
pub(super) fn topic_in(text: &str) -> Option<(&str, &str)> {
    let (_, after) = text.split_once("access to topic '")?;
    let (topic, after) = after.split_once("' in exchange ")?;
    let (_, exchange) = after.split_once('\'')?;
    Some((exchange.split_once("' in vhost")?.0, topic))
}

/// Returns the exchange that the broker names: `exchange 'NAME' in vhost`.
fn exchange_in(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("exchange '")?;
    after.split_once("' in vhost").map(|(name, _)| name)
}

fn leading_digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_RIGHT: &str =
        "ACCESS_REFUSED - write access to exchange 'leveret.v1.delay.03' in vhost '/' refused for user 'w'";

    fn admit(refused: &mut Refusals, exchange: &str, size: usize, now: Instant) -> SendDecision {
        refused.admit((&exchange.into(), &"key".into()), size, || now)
    }

    #[test]
    fn an_exchange_without_permission_is_tried_alone_after_growing_pauses() {
        let (mut refused, start) = (Refusals::default(), Instant::now());
        refused.learn(NO_RIGHT, start);
        assert_eq!(admit(&mut refused, "leveret.v1.jobs", 1, start), SendDecision::Send);
        let no = || SendDecision::Refuse(NO_RIGHT.to_owned());
        assert_eq!(admit(&mut refused, "leveret.v1.delay.03", 1, start), no());
        let later = start + FIRST_PAUSE;
        assert_eq!(admit(&mut refused, "leveret.v1.delay.03", 1, later), SendDecision::SendAlone);
        assert_eq!(admit(&mut refused, "leveret.v1.delay.03", 1, later), no(), "one at a time");
        refused.learn(NO_RIGHT, later);
        assert_eq!(admit(&mut refused, "leveret.v1.delay.03", 1, later + FIRST_PAUSE), no());
        assert_eq!(admit(&mut refused, "leveret.v1.delay.03", 1, later + FIRST_PAUSE * 2), SendDecision::SendAlone);
        refused.accepted(&"leveret.v1.delay.03".into(), &"key".into());
        assert_eq!(admit(&mut refused, "leveret.v1.delay.03", 1, later), SendDecision::Send);
    }

    #[test]
    fn a_topic_without_permission_is_tried_alone_and_the_other_topics_of_its_exchange_are_sent() {
        let text = "ACCESS_REFUSED - write access to topic 'billing.x' in exchange topic 'ns.topics' in vhost '/' refused \
                    for user 'u'";
        assert_eq!(topic_in(text), Some(("ns.topics", "billing.x")));
        let (mut refused, start) = (Refusals::default(), Instant::now());
        let (exchange, bad, good) = ("ns.topics".into(), "billing.x".into(), "order.placed".into());
        refused.learn(text, start);
        assert_eq!(refused.admit((&exchange, &good), 1, || start), SendDecision::Send);
        assert_eq!(refused.admit((&exchange, &bad), 1, || start), SendDecision::Refuse(text.to_owned()));
        assert_eq!(refused.admit((&exchange, &bad), 1, || start + FIRST_PAUSE), SendDecision::SendAlone);
        refused.accepted(&exchange, &bad);
        assert_eq!(refused.admit((&exchange, &bad), 1, || start), SendDecision::Send);
        for topic in 0..2 * MOST_TOPICS {
            refused.learn(&text.replace("billing.x", &topic.to_string()), start);
        }
        assert!(refused.topics.len() <= MOST_TOPICS);
    }

    #[test]
    fn a_size_that_the_broker_refuses_is_not_sent_again() {
        for words in [
            "PRECONDITION_FAILED - message size 70000 is larger than configured max size 65536",
            "PRECONDITION_FAILED - message size 70000 is larger than max size 65536, and more words",
        ] {
            let (mut refused, now) = (Refusals::default(), Instant::now());
            refused.learn(words, now);
            assert_eq!(admit(&mut refused, "e", 65_536, now), SendDecision::Send);
            assert_eq!(admit(&mut refused, "e", 65_537, now), SendDecision::Refuse(words.to_owned()));
        }
    }

    #[test]
    fn other_refusals_do_not_affect_later_publishes() {
        let (mut refused, now) = (Refusals::default(), Instant::now());
        for words in ["NOT_FOUND - no exchange 'e' in vhost '/'", "PRECONDITION_FAILED - invalid message: max size", ""]
        {
            refused.learn(words, now);
            assert_eq!(admit(&mut refused, "e", usize::MAX, now), SendDecision::Send, "{words}");
        }
    }
}
