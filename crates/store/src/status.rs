//! The status of tracked jobs.
//!
//! * `job`: the types. `fold`: makes a job of its events. `record`: writes events. `find`: reads jobs.

mod find;
mod fold;
mod job;
mod record;

pub(crate) use self::job::UNFINISHED;
pub use self::job::{JobFilter, JobState, StatusChange, TimelineEntry, TrackedJob};
