//! Brings dead letters back to their queues: published, confirmed, then marked as replayed. Killed at any moment, a
//! replay can go on; what was published and not yet marked is published twice, under the same id.

mod options;
mod progress;
mod run;
mod send;
mod steps;

pub use self::{
    options::ReplayOptions,
    progress::{ReplayProgress, ReplaySummary, UnpublishedLetter},
};
