//! What is told of a tracked job: its steps from the queue to its end.
//!
//! A job that was published with [`Publish::track`](crate::Publish::track) has its worker tell each step to the exchange
//! `leveret.v1.events`, as JSON under the routing key `job.<step>.<queue>`. The last step is confirmed before the job
//! leaves its queue; the others never hold it up, and may be lost when the broker is away.

use serde::{Deserialize, Serialize};

use crate::message::{LONGEST_LABEL, LONGEST_NAME, LONGEST_ORIGIN, republish::ERROR_TEXT_LIMIT, truncated};

/// The largest result that a status update carries, in bytes of JSON.
pub(crate) const RESULT_LIMIT: usize = 64 * 1024;
/// The longest note of a progress, in bytes.
pub(crate) const NOTE_LIMIT: usize = 1024;

/// One step of a tracked job. Its wire form is the JSON of this type.
///
/// Steps arrive late, twice and out of order. What counts is the greatest [`place`](Self::place).
///
/// ```
/// use leveret::status_update::{StatusUpdate, Step};
///
/// let json = r#"{"id": "order-17", "job": "email.send", "queue": "email", "attempt": 1, "hop": 0,
///                "at": 1800000000000, "event": "progress", "fraction": 0.5, "note": "half the pages"}"#;
/// let event: StatusUpdate = serde_json::from_str(json)?;
/// assert_eq!((event.place(), event.step.name()), ((0, 2), "progress"));
/// assert!(matches!(event.step, Step::Progress { fraction: 0.5, .. }));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusUpdate {
    /// The job's id.
    pub id: String,
    /// The job's name; empty if its message names none.
    pub job: String,
    /// The job queue.
    pub queue: String,
    /// What tells the job from every other that bears its id ([`Publish::origin`](crate::Publish::origin)). Whoever knows
    /// only the id cannot tell anything of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The text that the job was published with to be shown ([`Publish::label`](crate::Publish::label)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The priority that the job was published with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How many copies there were before this one: retries, snoozes, replays.
    pub hop: u32,
    /// First publish, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enqueued_at: Option<u64>,
    /// When it happened, in milliseconds since the epoch, on the teller's clock.
    pub at: u64,
    /// Who tells it: host and process id of a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub step: Step,
}

/// What happened to a tracked job; see [`StatusUpdate`] for an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Step {
    /// It was published, and the broker has confirmed it. No worker tells this: whoever publishes may.
    Queued {
        /// When it is due, in milliseconds since the epoch, if it was delayed.
        due: Option<u64>,
        /// When it is given up if it has not started, in milliseconds since the epoch.
        expires: Option<u64>,
    },
    /// A worker has it in hand.
    Received,
    /// Its handler runs.
    Started,
    /// Its handler told how far it is; at most once a second.
    Progress {
        /// From 0 to 1.
        fraction: f64,
        /// In words.
        note: Option<String>,
    },
    /// An attempt failed, and there will be another.
    Retrying {
        /// The class of the error, as [`ErrorKind`](crate::ErrorKind) names it.
        kind: String,
        /// The error and its sources.
        error: String,
        /// When the next attempt is due, in milliseconds since the epoch.
        due: u64,
    },
    /// It comes back later, with no attempt charged.
    Snoozed {
        /// When, in milliseconds since the epoch.
        due: u64,
    },
    /// Somebody does not want it any more. No worker tells this: whoever cancels may.
    CancelRequested,
    /// It is done.
    Succeeded {
        /// What its handler returned, if that is anything and not too large.
        result: Option<serde_json::Value>,
        /// The size in bytes of a result that was too large to be kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        too_large: Option<u64>,
    },
    /// It was done before, as its handler found out. What that came to was told then, unless its worker died over it.
    Duplicate,
    /// It was given up, and lies in `<queue>.dead`.
    Dead {
        /// The class of the error, as [`ErrorKind`](crate::ErrorKind) names it.
        kind: String,
        /// The error and its sources.
        error: String,
    },
    /// It was cancelled before it was done.
    Cancelled,
}

impl StatusUpdate {
    /// Where in its life the job is after this: hop, then [`Step::rank`]. An event of a smaller place is an old one.
    #[must_use]
    pub fn place(&self) -> (u32, u8) {
        (self.hop, self.step.rank())
    }

    /// This event with its texts as long as workers may write them, so that none fills a store; none if its id is longer
    /// than any job's.
    ///
    /// ```
    /// use leveret::status_update::StatusUpdate;
    ///
    /// let json = r#"{"id": "a", "job": "email.send", "queue": "email", "attempt": 1, "hop": 0, "at": 0, "event": "started"}"#;
    /// let event: StatusUpdate = serde_json::from_str(json)?;
    /// let long = StatusUpdate { label: Some("x".repeat(100_000)), ..event };
    /// assert_eq!(long.clone().bounded().and_then(|event| event.label).map(|label| label.len()), Some(1024));
    /// assert!(StatusUpdate { id: "x".repeat(256), ..long }.bounded().is_none());
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
        match &mut self.step {
            Step::Progress { note, .. } => note.iter_mut().for_each(|note| cut(note, NOTE_LIMIT)),
            Step::Retrying { kind, error, .. } | Step::Dead { kind, error } => {
                cut(kind, LONGEST_NAME);
                cut(error, ERROR_TEXT_LIMIT);
            }
            Step::Succeeded { result, too_large } => {
                // A worker measures its own result. This is of who does not.
                let size = result.as_ref().map_or(0, |result| result.to_string().len());
                if size > RESULT_LIMIT {
                    (*result, *too_large) = (None, Some(size as u64));
                }
            }
            Step::Queued { .. }
            | Step::Received
            | Step::Started
            | Step::Snoozed { .. }
            | Step::CancelRequested
            | Step::Duplicate
            | Step::Cancelled => {}
        }
        Some(self)
    }
}

fn cut(text: &mut String, limit: usize) {
    text.truncate(truncated(text, limit).len());
}

impl Step {
    /// The order of the steps between two copies of a job.
    ///
    /// ```
    /// use leveret::status_update::Step;
    ///
    /// assert!(Step::Received.rank() < Step::Started.rank() && Step::Started.rank() < Step::Cancelled.rank());
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

    /// Its name on the wire.
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

    /// Whether nothing comes after it, unless somebody replays the job.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.rank() >= 4
    }
}
