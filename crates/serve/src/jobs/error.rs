//! Why something could not be done with a job.

use leveret::PublishError;
use serde::Serialize;

use super::Status;

/// Why something could not be done with a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A submission that cannot be right; nothing was published.
    #[error("{}", summary(.flaws))]
    Invalid {
        /// All that is wrong.
        flaws: Vec<Flaw>,
    },
    /// The idempotency key was used for another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// A request with this idempotency key is under way.
    #[error("a request with this idempotency key is under way")]
    KeyInFlight,
    /// No tracked job has the id; perhaps not any more, perhaps not yet.
    #[error(
        "no task {id:?} is known here. A job that was submitted through this API is known at once, another tracked job once \
         a worker has received it: a delayed one only after its delay. Tasks are deleted when their retention is over"
    )]
    NotFound {
        /// The id.
        id: String,
    },
    /// The job is in a state in which this cannot be done.
    #[error("the task is {status}: {reason}")]
    Conflict {
        /// The state.
        status: Status,
        /// What would be needed.
        reason: &'static str,
    },
    /// The job died, but its dead letter has not been taken in.
    #[error("the dead letter of the task has not been taken in from its queue yet")]
    NoLetter,
    /// More wait for jobs than this server allows.
    #[error("too many wait for tasks already")]
    TooManyWait,
    /// The server has no connection to the broker since it started, or cannot make the queue it listens on.
    #[error("nothing can be submitted yet: {reason}")]
    Unprepared {
        /// Why.
        reason: String,
    },
    /// The store is away, or slower than what comes.
    #[error("the store is away: nothing was submitted")]
    StoreAway,
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] leveret_store::Error),
    /// The publish failed.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// One thing that is wrong with a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flaw {
    /// Which item of a batch, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Where in the submission, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong there, in words.
    pub detail: String,
    /// The name that was meant, perhaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

impl Flaw {
    pub(crate) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { index: None, pointer: pointer.into(), detail: detail.into(), nearest: None }
    }

    /// A name that is not known, next to the one that is most like it.
    pub(crate) fn unknown<'a>(
        pointer: impl Into<String>,
        what: &str,
        name: &str,
        known: impl Iterator<Item = &'a str>,
    ) -> Self {
        let nearest = nearest(name, known);
        let meant = nearest.as_ref().map(|nearest| format!(": did you mean {nearest:?}?")).unwrap_or_default();
        Self { index: None, pointer: pointer.into(), detail: format!("{what} {name:?}{meant}"), nearest }
    }
}

impl Error {
    pub(crate) fn invalid(flaw: Flaw) -> Self {
        Self::Invalid { flaws: vec![flaw] }
    }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known.min_by_key(|known| strsim::damerau_levenshtein(name, known)).map(str::to_owned)
}

fn summary(flaws: &[Flaw]) -> String {
    let Some(first) = flaws.first() else { return "the submission is not valid".to_owned() };
    let place = first.index.map(|index| format!("/{index}")).unwrap_or_default();
    let more = if flaws.len() > 1 { format!(" (and {} more)", flaws.len() - 1) } else { String::new() };
    format!("{place}{}: {}{more}", first.pointer, first.detail)
}
