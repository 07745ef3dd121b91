//! Replays dead letters to their queues: each is published, confirmed, then marked as replayed. A replay that is killed at
//! any moment can be resumed. A letter that was published but not marked is then published twice, under the same id.

mod options;
mod progress;
mod run;
mod send;
mod steps;

pub use self::{
    options::ReplayOptions,
    progress::{ReplayProgress, ReplaySummary, UnpublishedLetter},
};
