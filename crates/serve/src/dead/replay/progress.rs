//! The state of a replay while it runs, and its result.

use serde::Serialize;

/// How far a replay is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayProgress {
    /// Its number.
    pub replay: i64,
    /// How many letters it took.
    pub total: u64,
    /// How many of them were published and confirmed.
    pub replayed: u64,
    /// How many could not be published, so far.
    pub failed: u64,
    /// Whether it waits for the outcomes of its canaries.
    pub waiting: bool,
}

/// A letter that could not be published: it lies there again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnpublishedLetter {
    /// The letter's number.
    pub id: i64,
    /// Why.
    pub reason: String,
}

/// How a replay ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplaySummary {
    /// Its number.
    pub replay: i64,
    /// How many letters it took.
    pub total: u64,
    /// How many of them were published and confirmed.
    pub replayed: u64,
    /// How many lie there again.
    pub returned: u64,
    /// Those that could not be published.
    pub failed: Vec<UnpublishedLetter>,
    /// In words.
    pub outcome: String,
}
