//! Dead letters, and selections of them.

use leveret_sql::db::{FromRow, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::base64;

/// An enumeration with a name for each variant, in the database and in JSON.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Its name in the database and in JSON.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("none of {:?}: {text}", [$($text),+])),
                }
            }
        }
    };
}

names! {
    /// The queue that a dead letter was ingested from.
    ///
    /// ```
    /// assert_eq!("dead".parse(), Ok(leveret_store::DeadSource::Dead));
    /// ```
    DeadSource {
        /// `<queue>.dead`: a worker dead-lettered it.
        Dead = "dead",
        /// `leveret.v1.unrouted`: the broker routed it to no queue.
        Unrouted = "unrouted",
    }
}

names! {
    /// The state of a dead letter.
    ///
    /// ```
    /// assert_eq!("purged".parse(), Ok(leveret_store::DeadState::Purged));
    /// ```
    DeadState {
        /// It waits for an operator.
        Dead = "dead",
        /// A replay has selected it, and has not published it yet.
        Replaying = "replaying",
        /// It was published again, and the publish was confirmed.
        Replayed = "replayed",
        /// An operator purged it. Retention deletes it later.
        Purged = "purged",
    }
}

/// A dead letter as it came from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDead {
    /// The kind of queue that it was ingested from.
    pub source: DeadSource,
    /// The job queue.
    pub queue: String,
    /// The job's id, if its message has one.
    pub job_id: Option<String>,
    /// The job's name; empty if its message names none.
    pub job: String,
    /// The class of the error.
    pub kind: String,
    /// The error and its sources.
    pub error: String,
    /// The number of the last attempt, from 1.
    pub attempt: u32,
    /// The number of copies of the message before this one.
    pub hop: u32,
    /// The time of dead-lettering, in milliseconds since the epoch. The default is the time of ingestion.
    pub failed_at: Option<u64>,
    /// The properties of the message, from `RawMessage::properties`.
    pub properties: Vec<u8>,
    /// The payload of the message.
    pub payload: Vec<u8>,
}

/// A dead letter without its message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number in this store. Greater numbers were ingested later.
    pub id: i64,
    /// The kind of queue that it was ingested from.
    pub source: DeadSource,
    /// The job queue.
    pub queue: String,
    /// The job's id, if its message has one.
    pub job_id: Option<String>,
    /// The job's name.
    pub job: String,
    /// The class of the error.
    pub kind: String,
    /// The error and its sources.
    pub error: String,
    /// The number of the last attempt, from 1.
    pub attempt: u32,
    /// The number of copies of the message before this one.
    pub hop: u32,
    /// The time of dead-lettering, in milliseconds since the epoch.
    #[serde(with = "crate::time::rfc3339")]
    pub failed_at: u64,
    /// The time of ingestion.
    #[serde(with = "crate::time::rfc3339")]
    pub taken_at: u64,
    /// Its state.
    pub state: DeadState,
    /// The time of the change to this state.
    #[serde(with = "crate::time::rfc3339")]
    pub state_at: u64,
    /// The same for letters with alike errors; see [`fingerprint`](crate::fingerprint).
    pub fingerprint: String,
    /// The last replay that selected it.
    pub replay_id: Option<i64>,
    /// The size of its payload in bytes.
    pub payload_bytes: u64,
    /// True if its payload was edited.
    pub edited: bool,
}

/// A dead letter with its message. Its JSON is a line of an export, and keeps every byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDeadLetter {
    /// The letter without its message.
    #[serde(flatten)]
    pub about: DeadLetter,
    /// The properties of the message, for `RawMessage::from_parts`.
    #[serde(with = "base64::bytes")]
    pub properties: Vec<u8>,
    /// The payload that a replay publishes.
    #[serde(with = "base64::bytes")]
    pub payload: Vec<u8>,
    /// The original payload, if it was edited.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "base64::maybe_bytes")]
    pub original: Option<Vec<u8>>,
}

/// A change of a dead letter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryEntry {
    /// The time, in milliseconds since the epoch.
    #[serde(with = "crate::time::rfc3339")]
    pub at: u64,
    /// The user, or the name of a token.
    pub actor: String,
    /// `edited`, `reverted`, `purged`, `restored`, `replaying`, `replayed`, or `returned` by a replay that ended early.
    pub action: String,
    /// Details, such as the number of the replay.
    pub detail: Option<Value>,
}

/// Dead letters with alike errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadGroup {
    /// The fingerprint that they share.
    pub fingerprint: String,
    /// The job's name.
    pub job: String,
    /// The class of the error.
    pub kind: String,
    /// The error, with the parts masked in which they may differ.
    pub error: String,
    /// The number of letters.
    pub count: u64,
    /// The time at which the first one was dead-lettered, in milliseconds since the epoch.
    #[serde(with = "crate::time::rfc3339")]
    pub first_at: u64,
    /// The time at which the last one was dead-lettered.
    #[serde(with = "crate::time::rfc3339")]
    pub last_at: u64,
    /// The letter that was ingested last.
    pub sample: i64,
}

/// A filter of dead letters. A letter must match all of its fields; the default matches the state [`DeadState::Dead`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadFilter {
    /// In one of these states, or in any if this is empty.
    pub states: Vec<DeadState>,
    /// Of exactly this queue.
    pub queue: Option<String>,
    /// Of the job with exactly this name.
    pub job: Option<String>,
    /// Of the job with this id.
    pub job_id: Option<String>,
    /// With an error of this class.
    pub kind: Option<String>,
    /// With this text in the error, whatever the case of ASCII letters, or exactly in the payload.
    pub text: Option<String>,
    /// With this text in the error, whatever the case of ASCII letters.
    pub error: Option<String>,
    /// Of this group.
    pub fingerprint: Option<String>,
    /// Dead-lettered then or later, in milliseconds since the epoch.
    #[serde(with = "crate::time::rfc3339_maybe")]
    pub failed_from: Option<u64>,
    /// Dead-lettered before then.
    #[serde(with = "crate::time::rfc3339_maybe")]
    pub failed_until: Option<u64>,
}

impl Default for DeadFilter {
    fn default() -> Self {
        Self {
            states: vec![DeadState::Dead],
            queue: None,
            job: None,
            job_id: None,
            kind: None,
            text: None,
            error: None,
            fingerprint: None,
            failed_from: None,
            failed_until: None,
        }
    }
}

/// The dead letters that an action applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// All letters that match.
    Filter(DeadFilter),
    /// The letters with these numbers.
    Ids(Vec<i64>),
}

/// The columns of [`DeadLetter`].
pub(super) const ABOUT: &str = "id, source, queue, job_id, job, kind, error, attempt, hop, failed_at, taken_at, state, state_at, fingerprint, \
     replay_id, CAST(length(payload) AS BIGINT) AS payload_bytes, \
     CAST(CASE WHEN original IS NULL THEN 0 ELSE 1 END AS BIGINT) AS edited";

impl FromRow for DeadLetter {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            source: row.parse("source")?,
            queue: row.try_get("queue")?,
            job_id: row.try_get("job_id")?,
            job: row.try_get("job")?,
            kind: row.try_get("kind")?,
            error: row.try_get("error")?,
            attempt: row.number("attempt")?,
            hop: row.number("hop")?,
            failed_at: row.number("failed_at")?,
            taken_at: row.number("taken_at")?,
            state: row.parse("state")?,
            state_at: row.number("state_at")?,
            fingerprint: row.try_get("fingerprint")?,
            replay_id: row.try_get("replay_id")?,
            payload_bytes: row.number("payload_bytes")?,
            edited: row.flag("edited")?,
        })
    }
}

impl FromRow for StoredDeadLetter {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            about: DeadLetter::from_row(row)?,
            properties: row.try_get("properties")?,
            payload: row.try_get("payload")?,
            original: row.try_get("original")?,
        })
    }
}

impl FromRow for HistoryEntry {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            at: row.number("at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            detail: row.json("detail")?,
        })
    }
}

impl FromRow for DeadGroup {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            fingerprint: row.try_get("fingerprint")?,
            job: row.try_get("job")?,
            kind: row.try_get("kind")?,
            error: row.try_get("masked")?,
            count: row.number("letters")?,
            first_at: row.number("first_at")?,
            last_at: row.number("last_at")?,
            sample: row.try_get("sample")?,
        })
    }
}
