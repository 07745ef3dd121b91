//! Distinguishes a job from others with the same id, because any publisher may reuse an id that it knows, and the copies of
//! an event, which all have its id.

use std::borrow::Cow;

use uuid::Uuid;

use crate::message::{LONGEST_NAME, LONGEST_ORIGIN, Message, header, text};

/// The end of the name of the exchange of events, in every namespace.
pub(crate) const TOPICS: &str = ".topics";

/// Returns the digest of an origin, which stands in status updates and in the stores that hold them. The origin itself is
/// a secret, and more programs may read status updates than jobs.
pub(crate) fn digest_of(origin: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, origin.as_bytes()).to_string()
}

/// Returns the id under which status updates and cancellations know an event in a subscription.
pub(crate) fn id_in(subscription: &str, id: &str) -> String {
    format!("{id}@{subscription}")
}

impl Message {
    /// Writes which subscription this copy of an event belongs to, or removes that if it is a copy of a job.
    pub(crate) fn set_subscription(&mut self, subscription: Option<&str>) {
        match subscription {
            Some(name) => self.set_header(header::SUBSCRIPTION, text(name)),
            None if self.header(header::SUBSCRIPTION).is_some() => self.remove_header(header::SUBSCRIPTION),
            None => {}
        }
    }

    /// Returns whether this message, from this queue or its dead letters, is a copy of an event in the subscription of that
    /// name. Workers write it on their copies. A message that the broker dead-lettered itself names the exchange before.
    pub(crate) fn is_event_in(&self, queue: &str) -> bool {
        if let Some(subscription) = self.bounded(header::SUBSCRIPTION, LONGEST_NAME) {
            return subscription == queue;
        }
        let is_from_topics = |exchange: &str| exchange.ends_with(TOPICS);
        self.text("x-first-death-queue") == Some(queue)
            && self.text("x-first-death-exchange").is_some_and(is_from_topics)
    }

    /// Returns the value that distinguishes this job from others with the same id, such as one from a publisher that
    /// only knows the id. Publishers generate it for tracked jobs, and copies keep it. For a message without one it is
    /// a digest of fields that copies keep too.
    pub(crate) fn origin(&self) -> Cow<'_, str> {
        if let Some(origin) = self.bounded(header::ORIGIN, LONGEST_ORIGIN).filter(|origin| !origin.is_empty()) {
            return origin.into();
        }
        // FNV-1a, because every version of every worker must compute the same value.
        let hash = |hash: u64, bytes: &[u8]| {
            bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
        };
        let times = [self.enqueued_at(), *self.properties.timestamp()].map(|at| at.unwrap_or_default().to_be_bytes());
        let hashed = hash(hash(0xcbf2_9ce4_8422_2325, &times.concat()), &self.body);
        format!("body-{hashed:016x}").into()
    }

    pub(crate) fn origin_digest(&self) -> String {
        digest_of(&self.origin())
    }
}
