//! Distinguishes a job from others with the same id, because any publisher may reuse an id that it knows.

use std::borrow::Cow;

use crate::message::{LONGEST_ORIGIN, Message, header};

impl Message {
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
}
