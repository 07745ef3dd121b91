//! Status updates of tracked jobs, from the queue to the end of the job.
//!
//! For a job published with [`NewJob::track`](crate::NewJob::track), the worker publishes a status update for each
//! state change. The updates go to the exchange `leveret.v1.events`, as JSON under the routing key
//! `job.<step>.<queue>`. The last update is confirmed before the job leaves its queue. The others never delay the job,
//! and may be lost while the broker is unreachable.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::job::JobId;
use crate::message::{LONGEST_LABEL, LONGEST_NAME, LONGEST_ORIGIN, republish::ERROR_TEXT_LIMIT, truncated};

/// The largest result in a status update, in bytes of JSON.
pub(crate) const RESULT_LIMIT: usize = 64 * 1024;
/// The longest note of a progress update, in bytes.
pub(crate) const NOTE_LIMIT: usize = 1024;

/// One status update of a tracked job. Its wire form is the JSON of this type, in which a time is whole milliseconds since
/// the epoch.
///
/// Updates can arrive late, twice and out of order. The update with the greatest [`position`](Self::position) is the current
/// one.
///
/// ```
/// use leveret::status_update::{StatusUpdate, Transition};
///
/// let json = r#"{"id": "order-17", "job": "email.send", "queue": "email", "attempt": 1, "hop": 0,
///                "at": 1800000000000, "event": "progress", "fraction": 0.5, "note": "half the pages"}"#;
/// let update: StatusUpdate = serde_json::from_str(json)?;
/// assert_eq!((update.position(), update.transition.name()), ((0, 2), "progress"));
/// assert!(matches!(update.transition, Transition::Progress { fraction: 0.5, .. }));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusUpdate {
    /// The job's id.
    pub id: JobId,
    /// The job's name; empty if its message names none.
    pub job: String,
    /// The job queue.
    pub queue: String,
    /// The digest of the value that distinguishes the job from others with the same id
    /// ([`NewJob::origin`](crate::NewJob::origin)): a UUID of version 5 in the namespace OID (RFC 9562). Only messages of
    /// the job have the value itself, so a publisher that reads this update cannot publish a message as the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The job's text for tools ([`NewJob::label`](crate::NewJob::label)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The job's priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The number of earlier copies: retries, snoozes, replays.
    pub hop: u32,
    /// The first publish.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::wire_option")]
    pub enqueued_at: Option<SystemTime>,
    /// The time of the state change, on the sender's clock.
    #[serde(with = "crate::time::wire")]
    pub at: SystemTime,
    /// The sender: host and process id of a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The state change.
    #[serde(flatten)]
    pub transition: Transition,
}

/// The state change of a tracked job; see [`StatusUpdate`] for an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Transition {
    /// The job was published and confirmed. Workers do not send this update; the publisher may.
    Queued {
        /// The due time, if the job was delayed.
        #[serde(default, with = "crate::time::wire_option")]
        due: Option<SystemTime>,
        /// The time at which an unstarted job is dead-lettered.
        #[serde(default, with = "crate::time::wire_option")]
        expires: Option<SystemTime>,
    },
    /// A worker received the job and has not settled it.
    Received,
    /// The job's handler runs.
    Started,
    /// The job's handler reported its progress, at most once a second.
    Progress {
        /// From 0 to 1.
        fraction: f64,
        /// A note in words.
        note: Option<String>,
    },
    /// An attempt failed, and the job will be retried.
    Retrying {
        /// The class of the error, as [`ErrorKind`](crate::ErrorKind) names it.
        kind: String,
        /// The error and its sources.
        error: String,
        /// The due time of the next attempt.
        #[serde(with = "crate::time::wire")]
        due: SystemTime,
    },
    /// The job is delivered again later; no attempt counts.
    Snoozed {
        /// The due time.
        #[serde(with = "crate::time::wire")]
        due: SystemTime,
    },
    /// The cancellation of the job was requested. Workers do not send this update; the canceller may.
    CancelRequested,
    /// The job succeeded.
    Succeeded {
        /// The result that the handler returned, if it returned one and it is not too large.
        result: Option<serde_json::Value>,
        /// The size in bytes of a result that was too large to keep.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        too_large: Option<u64>,
    },
    /// The handler found that an earlier run had completed the job. That run published its result, unless its worker
    /// crashed.
    Duplicate,
    /// The job was dead-lettered to `<queue>.dead`.
    Dead {
        /// The class of the error, as [`ErrorKind`](crate::ErrorKind) names it.
        kind: String,
        /// The error and its sources.
        error: String,
    },
    /// The job was cancelled before it was done.
    Cancelled,
}

impl StatusUpdate {
    /// Returns the position of the update in the job's life: hop, then [`Transition::rank`]. An update of a smaller position is
    /// outdated.
    #[must_use]
    pub fn position(&self) -> (u32, u8) {
        (self.hop, self.transition.rank())
    }

    /// Returns this update with its texts cut to the length that workers write, so that no update fills a store.
    /// Returns `None` if its id is longer than any job's.
    ///
    /// ```
    /// use leveret::status_update::StatusUpdate;
    ///
    /// let json = r#"{"id": "a", "job": "email.send", "queue": "email", "attempt": 1, "hop": 0, "at": 0, "event": "started"}"#;
    /// let update: StatusUpdate = serde_json::from_str(json)?;
    /// let long = StatusUpdate { label: Some("x".repeat(100_000)), ..update };
    /// assert_eq!(long.clone().bounded().and_then(|update| update.label).map(|label| label.len()), Some(1024));
    /// assert!(StatusUpdate { id: "x".repeat(256).into(), ..long }.bounded().is_none());
    /// # Ok::<_, serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn bounded(mut self) -> Option<Self> {
        if self.id.len() > LONGEST_NAME {
            return None;
        }
        cut(&mut self.job, LONGEST_NAME);
        cut(&mut self.queue, LONGEST_NAME);
        let texts =
            [(&mut self.origin, LONGEST_ORIGIN), (&mut self.label, LONGEST_LABEL), (&mut self.worker, LONGEST_NAME)];
        for (text, limit) in texts {
            text.iter_mut().for_each(|text| cut(text, limit));
        }
        match &mut self.transition {
            Transition::Progress { note, .. } => note.iter_mut().for_each(|note| cut(note, NOTE_LIMIT)),
            Transition::Retrying { kind, error, .. } | Transition::Dead { kind, error } => {
                cut(kind, LONGEST_NAME);
                cut(error, ERROR_TEXT_LIMIT);
            }
            Transition::Succeeded { result, too_large } => {
                // Workers measure their own results; this check is for other senders.
                let size = result.as_ref().map_or(0, |result| result.to_string().len());
                if size > RESULT_LIMIT {
                    (*result, *too_large) = (None, Some(size as u64));
                }
            }
            Transition::Queued { .. }
            | Transition::Received
            | Transition::Started
            | Transition::Snoozed { .. }
            | Transition::CancelRequested
            | Transition::Duplicate
            | Transition::Cancelled => {}
        }
        Some(self)
    }
}

fn cut(text: &mut String, limit: usize) {
    text.truncate(truncated(text, limit).len());
}

impl Transition {
    /// Returns the order of the step among the updates of one copy of a job.
    ///
    /// ```
    /// use leveret::status_update::Transition;
    ///
    /// assert!(Transition::Received.rank() < Transition::Started.rank() && Transition::Started.rank() < Transition::Cancelled.rank());
    /// ```
    #[must_use]
    pub fn rank(&self) -> u8 {
        match self {
            Self::Queued { .. } => 0,
            Self::Received => 1,
            Self::Started | Self::Progress { .. } => 2,
            Self::Retrying { .. } | Self::Snoozed { .. } | Self::CancelRequested => 3,
            Self::Duplicate => 4,
            Self::Succeeded { .. } | Self::Dead { .. } | Self::Cancelled => 5,
        }
    }

    /// Returns its name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Received => "received",
            Self::Started => "started",
            Self::Progress { .. } => "progress",
            Self::Retrying { .. } => "retrying",
            Self::Snoozed { .. } => "snoozed",
            Self::CancelRequested => "cancel_requested",
            Self::Succeeded { .. } => "succeeded",
            Self::Duplicate => "duplicate",
            Self::Dead { .. } => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether no update follows, unless the job is replayed.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.rank() >= 4
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn on_the_wire_a_time_is_milliseconds_and_an_id_is_text() {
        let of = |transition: Value| {
            let mut update = json!({
                "id": "order-17", "job": "email.send", "queue": "email", "attempt": 1, "hop": 0,
                "enqueued_at": 1_800_000_000_123_u64, "at": u64::MAX,
            });
            update.as_object_mut().unwrap().extend(transition.as_object().unwrap().clone());
            update
        };
        for json in [
            of(json!({"event": "queued", "due": null, "expires": 1_800_000_000_001_u64})),
            of(json!({"event": "retrying", "kind": "error", "error": "no", "due": 7})),
            of(json!({"event": "snoozed", "due": 0})),
            of(json!({"event": "started"})),
        ] {
            let update: StatusUpdate = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(serde_json::to_value(update).unwrap(), json);
        }
        let short = json!({"id": "a", "job": "j", "queue": "q", "attempt": 1, "hop": 0, "at": 0, "event": "queued"});
        let update: StatusUpdate = serde_json::from_value(short).unwrap();
        assert_eq!((update.enqueued_at, update.transition), (None, Transition::Queued { due: None, expires: None }));
    }
}
