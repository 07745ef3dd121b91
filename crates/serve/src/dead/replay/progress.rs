//! The state of a replay while it runs, and its result.

use serde::Serialize;

/// The progress of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayProgress {
    /// The replay's number.
    pub replay: i64,
    /// The number of letters that it selected.
    pub total: u64,
    /// The number of letters that were published and confirmed.
    pub replayed: u64,
    /// The number of letters that could not be published so far.
    pub failed: u64,
    /// True if the replay waits for the outcomes of its canaries.
    pub waiting: bool,
}

/// A letter that could not be published, and is dead again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnpublishedLetter {
    /// The letter's number.
    pub id: i64,
    /// The reason.
    pub reason: String,
}

/// The result of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplaySummary {
    /// The replay's number.
    pub replay: i64,
    /// The number of letters that it selected.
    pub total: u64,
    /// The number of letters that were published and confirmed.
    pub replayed: u64,
    /// The number of letters that are dead again.
    pub returned: u64,
    /// The letters that could not be published.
    pub failed: Vec<UnpublishedLetter>,
    /// `done`, or the reason for an early end.
    pub outcome: String,
}
