//! Copies of a message: which fields a retry, a snooze, a move and a dead letter keep, and which they change.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{
    message::{Envelope, Message, header, integer, rate_slot::RateSlot, reply::DIRECT_REPLY, text, truncated},
    outcome::ErrorKind,
};

/// Headers that a copy must not keep. They would duplicate the copy (`CC`, `BCC`), block a broker before 4.0.1
/// (`x-death` and related headers), or be false for the copy (`x-delivery-count`, `x-acquired-count`,
/// `leveret-unreadable`).
const DROPPED: [&str; 6] = ["CC", "BCC", "x-death", header::DELIVERY_COUNT, "x-acquired-count", header::UNREADABLE];
/// Further headers that a replayed job must not keep: its failure, and times that have passed.
const OUTDATED: [&str; 8] = [
    header::ERROR,
    header::ERROR_KIND,
    header::FAILED_AT,
    header::QUEUE,
    header::NOT_BEFORE,
    header::EXPIRES_AT,
    header::SNOOZED_SINCE,
    header::BATCH,
];
const DROPPED_PREFIXES: [&str; 2] = ["x-first-death-", "x-last-death-"];
/// The longest text of an error in the header `leveret-error`, in bytes.
pub const ERROR_TEXT_LIMIT: usize = 4 * 1024;

/// The reason for a copy; it decides which headers change.
#[derive(Clone, Debug)]
pub(crate) enum Republish<'a> {
    /// The next attempt, at this time (ms since the epoch).
    Retry {
        kind: ErrorKind,
        reason: &'a str,
        at: u64,
    },
    /// The same attempt, at this time (ms since the epoch).
    Later {
        at: u64,
        /// Its slot before a rate limit, if it has one. A slot of the original is used up.
        slot: Option<RateSlot>,
        /// Its due time before its first snooze, if it snoozes now (ms since the epoch).
        snoozed_since: Option<u64>,
    },
    /// The same attempt, in another queue.
    Moved,
    Dead {
        kind: ErrorKind,
        reason: &'a str,
    },
    /// The job starts again as if it were published now.
    Replayed,
}

impl Message {
    /// Copies the message for another queue or time: the same body, id, priority and foreign headers; see [`DROPPED`]
    /// for the rest.
    ///
    /// `queue` is the job queue that the copy comes from. `received` is the envelope of the original.
    pub(crate) fn copy(&self, queue: &str, received: Envelope, kind: &Republish<'_>, now_ms: u64) -> Self {
        let mut headers = self.kept_headers();
        headers.insert(header::HOP.into(), integer(received.hop.saturating_add(1).into()));
        let enqueued_at = received.enqueued_at.filter(|_| !matches!(kind, Republish::Replayed));
        headers.insert(header::ENQUEUED_AT.into(), integer(enqueued_at.unwrap_or(now_ms)));
        if let Some(at) = received.expires_at.or_else(|| self.expiration(now_ms)) {
            headers.insert(header::EXPIRES_AT.into(), integer(at));
        }
        let attempt = match kind {
            Republish::Retry { .. } => received.attempt.saturating_add(1),
            Republish::Later { .. } | Republish::Moved | Republish::Dead { .. } => received.attempt,
            Republish::Replayed => 1,
        };
        headers.insert(header::ATTEMPT.into(), integer(attempt.into()));
        if received.track || matches!(kind, Republish::Replayed) {
            headers.insert(header::ORIGIN.into(), text(&self.origin()));
        }
        if let Republish::Retry { kind, reason, .. } | Republish::Dead { kind, reason } = kind {
            headers.insert(header::ERROR.into(), text(truncated(reason, ERROR_TEXT_LIMIT)));
            headers.insert(header::ERROR_KIND.into(), text(kind.as_str()));
            headers.insert(header::FAILED_AT.into(), integer(now_ms));
            headers.insert(header::QUEUE.into(), text(queue));
        }
        match kind {
            Republish::Later { slot: Some(slot), .. } => {
                headers.insert(header::SLOT.into(), slot.to_header());
            }
            Republish::Moved => {}
            Republish::Later { slot: None, .. }
            | Republish::Retry { .. }
            | Republish::Dead { .. }
            | Republish::Replayed => {
                headers.remove(header::SLOT);
            }
        }
        match kind {
            Republish::Retry { at, .. } => {
                headers.insert(header::NOT_BEFORE.into(), integer(*at));
                headers.remove(header::SNOOZED_SINCE);
            }
            Republish::Later { at, snoozed_since, .. } => {
                headers.insert(header::NOT_BEFORE.into(), integer(*at));
                if let Some(since) = snoozed_since {
                    headers.insert(header::SNOOZED_SINCE.into(), integer(*since));
                }
            }
            Republish::Dead { .. } => {
                headers.remove(header::NOT_BEFORE);
                headers.remove(header::SNOOZED_SINCE);
            }
            Republish::Moved => {}
            Republish::Replayed => {
                for name in OUTDATED {
                    headers.remove(name);
                }
                headers.insert(header::REPLAYED_AT.into(), integer(now_ms));
            }
        }
        Self { properties: self.kept_properties().with_headers(headers.into()), body: self.body.clone() }
    }

    /// Returns this copy with only `leveret-track`, the place in a workflow and the headers that [`copy`](Self::copy)
    /// wrote, for when the others leave no room.
    pub(crate) fn bare(mut self) -> Self {
        const WRITTEN: [&str; 15] = [
            header::ATTEMPT,
            header::HOP,
            header::ENQUEUED_AT,
            header::ERROR,
            header::ERROR_KIND,
            header::FAILED_AT,
            header::QUEUE,
            header::SUBSCRIPTION,
            header::TRACK,
            header::ORIGIN,
            header::WORKFLOW,
            header::WORKFLOW_STEP,
            header::WORKFLOW_MEMBER,
            header::WORKFLOW_LIFE,
            header::WORKFLOW_ROLE,
        ];
        let mut headers = self.properties.headers().clone().unwrap_or_default().inner().clone();
        headers.retain(|name, _| WRITTEN.contains(&name.as_str()));
        self.properties = std::mem::take(&mut self.properties).with_headers(headers.into());
        self
    }

    fn kept_headers(&self) -> std::collections::BTreeMap<ShortString, AMQPValue> {
        let kept =
            |name: &str| !DROPPED.contains(&name) && !DROPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let headers = self.properties.headers().iter().flat_map(FieldTable::inner);
        headers.filter(|(name, _)| kept(name.as_str())).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Returns all properties except three, and makes the copy persistent. A foreign `user_id` and a `reply_to` of the
    /// sender's own channel cause a 406 that closes the channel. `expiration` has become `leveret-expires-at`.
    fn kept_properties(&self) -> BasicProperties {
        type Set = fn(BasicProperties, ShortString) -> BasicProperties;
        let of = &self.properties;
        let is_of_channel = of.reply_to().as_ref().is_some_and(|to| to.as_str() == DIRECT_REPLY);
        let reply_to = if is_of_channel { &None } else { of.reply_to() };
        let texts: [(&Option<ShortString>, Set); 8] = [
            (of.content_type(), BasicProperties::with_content_type),
            (of.content_encoding(), BasicProperties::with_content_encoding),
            (of.correlation_id(), BasicProperties::with_correlation_id),
            (reply_to, BasicProperties::with_reply_to),
            (of.message_id(), BasicProperties::with_message_id),
            (of.kind(), BasicProperties::with_type),
            (of.app_id(), BasicProperties::with_app_id),
            (of.cluster_id(), BasicProperties::with_cluster_id),
        ];
        let mut kept = BasicProperties::default().with_delivery_mode(2);
        for (value, set) in texts {
            if let Some(value) = value {
                kept = set(kept, value.clone());
            }
        }
        if let Some(priority) = of.priority() {
            kept = kept.with_priority(*priority);
        }
        match of.timestamp() {
            Some(at) => kept.with_timestamp(*at),
            None => kept,
        }
    }
}
