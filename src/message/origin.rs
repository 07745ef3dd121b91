//! What tells a job from others that bear its id: anybody may publish under an id that they know.

use std::borrow::Cow;

use crate::message::{LONGEST_ORIGIN, Message, header};

impl Message {
    /// Tells this job from every other that bears its id, such as one of a publisher that only knows the id. Publishers
    /// mint it for tracked jobs, and copies keep it. Of a message without one it is a digest of what a copy keeps too.
    pub(crate) fn origin(&self) -> Cow<'_, str> {
        if let Some(origin) = self.bounded(header::ORIGIN, LONGEST_ORIGIN).filter(|origin| !origin.is_empty()) {
            return origin.into();
        }
        // FNV-1a, because every version of every worker must get the same.
        let hash = |hash: u64, bytes: &[u8]| {
            bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
        };
        let times = [self.enqueued_at(), *self.properties.timestamp()].map(|at| at.unwrap_or_default().to_be_bytes());
        let hashed = hash(hash(0xcbf2_9ce4_8422_2325, &times.concat()), &self.body);
        format!("body-{hashed:016x}").into()
    }
}
