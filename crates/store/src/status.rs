//! The status of tracked jobs.
//!
//! * `job`: the types. `fold`: makes a job of its updates. `record`: writes updates. `find`: reads jobs.

mod find;
mod fold;
mod job;
mod record;

pub(crate) use self::job::UNFINISHED;
pub use self::job::{JobFilter, JobState, StatusChange, TimelineEntry, TrackedJob};
