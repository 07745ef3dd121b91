//! The content of a dead letter, for tools.

use crate::{
    job::JobId,
    message::{Message, header, republish::ERROR_TEXT_LIMIT},
    outcome::ErrorKind,
};

/// A dead-lettered job, as stored in `<queue>.dead`; see [`dead_letters`](crate::testing::dead_letters).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The job's name, if the message named one.
    pub job: Option<String>,
    /// The job's id.
    pub id: Option<JobId>,
    /// The reason class; `None` if neither a worker nor the broker recorded one.
    pub kind: Option<ErrorKind>,
    /// The reason in words; empty if the broker dead-lettered the message.
    pub reason: String,
    /// The last attempt.
    pub attempt: u32,
    /// The original payload.
    pub payload: Vec<u8>,
}

impl DeadLetter {
    pub(crate) fn read(message: &Message, now_ms: u64) -> Self {
        let error = message.bounded(header::ERROR, ERROR_TEXT_LIMIT);
        Self {
            job: message.job_name().map(str::to_owned),
            id: message.id().map(JobId::from),
            kind: message.dead_kind(),
            reason: message.unreadable().or(error).unwrap_or_default().to_owned(),
            attempt: message.envelope(now_ms).map_or(1, |envelope| envelope.attempt),
            payload: message.body.to_vec(),
        }
    }
}
