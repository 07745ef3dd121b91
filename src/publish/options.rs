//! The options of a job to publish, in the form in which stores keep them.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    message::step::StepHeaders,
    publish::{header_value::HeaderValue, unique::IfTaken},
    time::wire_span,
};

/// The options of a [`StoredJob`](crate::StoredJob): how it is published, apart from its name, queue and payload.
///
/// Its form in JSON is an object of the options that are set. `delay` and `expires` are a number of seconds, or a text
/// such as `"5m"`. Unknown members are errors, so that a program of an older
/// version does not publish a job without an option that it does not know.
///
/// ```
/// use leveret::JobOptions;
///
/// let options: JobOptions = serde_json::from_str(r#"{"priority": 5, "headers": {"tenant": "acme"}}"#)?;
/// assert_eq!(serde_json::to_string(&options)?, r#"{"priority":5,"headers":{"tenant":"acme"}}"#);
/// assert!(serde_json::from_str::<JobOptions>(r#"{"priorty": 5}"#).is_err());
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobOptions {
    /// The earliest start, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_before: Option<u64>,
    /// The same, counted from the publish.
    #[serde(skip_serializing_if = "Option::is_none", with = "wire_span")]
    pub(super) delay: Option<Duration>,
    /// The time at which an unstarted job expires, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    /// The same, counted from the publish.
    #[serde(skip_serializing_if = "Option::is_none", with = "wire_span")]
    pub(super) expires: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) priority: Option<u8>,
    #[serde(skip_serializing_if = "Lanes::is_unset")]
    pub(super) lanes: Lanes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) track: bool,
    /// The value that distinguishes a tracked job from others with the same id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unique: Option<Box<UniqueKey>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) if_taken: Option<IfTaken>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<String, HeaderValue>,
    /// The step of a workflow that the job is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<Box<StepHeaders>>,
}

impl fmt::Debug for JobOptions {
    /// Shows no text of the publisher's, such as a header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobOptions").field("priority", &self.priority).finish_non_exhaustive()
    }
}

impl JobOptions {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether workers publish status updates of the job. The end of a unique job frees its key.
    pub(super) fn is_tracked(&self) -> bool {
        self.track || self.unique.is_some()
    }
}

/// The lanes of a queue, one of which the priority selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Lanes {
    Flag(bool),
    /// The queue of the job's type has lanes. What other queues have is not known.
    Of(Cow<'static, str>),
}

impl Default for Lanes {
    fn default() -> Self {
        Self::Flag(false)
    }
}

impl Lanes {
    fn is_unset(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn has(&self, queue: &str) -> bool {
        match self {
            Self::Flag(has) => *has,
            Self::Of(laned) => laned == queue,
        }
    }
}

/// The key of a unique job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UniqueKey {
    pub(super) key: String,
    /// Counted from the publish.
    pub(super) time_to_live: Duration,
}

/// The form of a payload: a text, or a list of bytes that are no text.
pub(super) mod payload {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Payload {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(in crate::publish) fn serialize<S: Serializer>(
        payload: &Result<Vec<u8>, String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes =
            payload.as_ref().map_err(|reason| S::Error::custom(format!("the job does not serialise: {reason}")))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => to.serialize_str(text),
            Err(_) => bytes.serialize(to),
        }
    }

    pub(in crate::publish) fn deserialize<'d, D: Deserializer<'d>>(
        from: D,
    ) -> Result<Result<Vec<u8>, String>, D::Error> {
        Ok(Ok(match Payload::deserialize(from)? {
            Payload::Text(text) => text.into_bytes(),
            Payload::Bytes(bytes) => bytes,
        }))
    }
}
