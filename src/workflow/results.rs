//! The results of a step's direct predecessors, in one header of its job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::message::undecoded;

/// The most bytes of the results of a step's direct predecessors, as one header.
///
/// A copy of a job whose headers exceed RabbitMQ's frame would close the connection, so headers are small.
pub const RESULTS_LIMIT: usize = 32 * 1024;

/// The results of a step's direct predecessors, as the step's message carries them.
///
/// ```
/// use leveret::workflow::{PredecessorResults, StepResultError};
///
/// let mut results = PredecessorResults::default();
/// results.add("charge", Some(r#"{"receipt": 17}"#));
/// results.add_group("label", 10_000);
/// let header = results.to_header();
/// let read = PredecessorResults::from_header(&header).ok_or("it was written above")?;
/// #[derive(serde::Deserialize)] struct Receipt { receipt: u32 }
/// assert_eq!(read.get::<Receipt>("charge")?.receipt, 17);
/// assert!(matches!(read.get::<Receipt>("label"), Err(StepResultError::Group { .. })));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PredecessorResults {
    steps: BTreeMap<String, Entry>,
    #[serde(skip)]
    size: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    /// The result of a step, `null` if it has none.
    Value(Box<RawValue>),
    /// A group, with its size.
    Group(u32),
    /// The workflow went on without the step.
    Skipped(bool),
    /// The size in bytes of a result that is not carried.
    TooLarge(u64),
}

/// The reason why the result of a predecessor cannot be read from a step's message.
///
/// ```
/// # use leveret::workflow::StepResultError;
/// fn is_in_the_server(error: &StepResultError) -> bool {
///     matches!(error, StepResultError::TooLarge { .. } | StepResultError::Group { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepResultError {
    /// The job is no step of a workflow.
    #[error("the job is not a step of a workflow, so it has no predecessor {step:?}")]
    NotAStep {
        /// The step that was asked for.
        step: String,
    },
    /// The step is no direct predecessor. Or the job has so many predecessors that the header has no room for their
    /// names.
    #[error(
        "step {step:?} is not a direct predecessor with a result here; there is: {known}. Name it in the step's after"
    )]
    NotAPredecessor {
        /// The step that was asked for.
        step: String,
        /// The steps whose results are here.
        known: String,
    },
    /// The step has failed, and the workflow went on without it.
    #[error("step {step:?} was skipped and has no result: read it as an Option")]
    Skipped {
        /// The step.
        step: String,
    },
    /// The step is a group, whose results come from the server in pages.
    #[error(
        "step {step:?} is a group of {size}: read the results of its members in pages, at /api/workflows/ID/steps/{step}/results"
    )]
    Group {
        /// The step.
        step: String,
        /// The number of its members.
        size: u32,
    },
    /// The result is larger than what a message carries.
    #[error(
        "the result of step {step:?} has {size} bytes, and the results of all predecessors of a step may have {RESULTS_LIMIT} \
         bytes together: keep the data elsewhere and return its address, or read it at /api/workflows/ID/steps/{step}/results"
    )]
    TooLarge {
        /// The step.
        step: String,
        /// The size in bytes.
        size: u64,
    },
    /// The job has failed or was cancelled.
    #[error("{step:?} has no result, because it has not succeeded")]
    NotCompleted {
        /// The step.
        step: String,
    },
    /// The result is no JSON of the type.
    #[error("the result of step {step:?} is not of the expected type: {reason}")]
    Decode {
        /// The step.
        step: String,
        /// The error of the decoder, without values of the result.
        reason: String,
    },
}

impl PredecessorResults {
    /// Adds the result of a step, which is JSON; `None` if it has none. A result that would exceed the bound is left
    /// out, and the error of a read names its size.
    pub fn add(&mut self, step: &str, result: Option<&str>) {
        let value = result.unwrap_or("null");
        let entry = match RawValue::from_string(value.to_owned()) {
            Ok(value) if self.has_room(step, value.get().len()) => Entry::Value(value),
            _ => Entry::TooLarge(value.len() as u64),
        };
        self.insert(step, entry);
    }

    /// Adds a result that was too large for the message of the step's end.
    pub fn add_too_large(&mut self, step: &str, size: u64) {
        self.insert(step, Entry::TooLarge(size));
    }

    /// Adds a group of this size, whose results are in the server.
    pub fn add_group(&mut self, step: &str, size: u32) {
        self.insert(step, Entry::Group(size));
    }

    /// Adds a step without which the workflow went on.
    pub fn add_skipped(&mut self, step: &str) {
        self.insert(step, Entry::Skipped(true));
    }

    /// Returns whether there is no predecessor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns the header's text: JSON, at most [`RESULTS_LIMIT`] bytes.
    #[must_use]
    pub fn to_header(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a header's text.
    #[must_use]
    pub fn from_header(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Returns the result of a direct predecessor. A step that was skipped has the result `null`, if the type can be read
    /// from it, as an `Option` can.
    ///
    /// # Errors
    ///
    /// [`StepResultError`].
    pub fn get<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepResultError> {
        let owned = || step.to_owned();
        match self.steps.get(step) {
            None => {
                let known: Vec<_> = self.steps.keys().take(20).map(String::as_str).collect();
                Err(StepResultError::NotAPredecessor { step: owned(), known: known.join(", ") })
            }
            Some(Entry::Value(value)) => serde_json::from_str(value.get()).map_err(|error| {
                let reason = undecoded::reason(&error, value.get().as_bytes());
                StepResultError::Decode { step: owned(), reason }
            }),
            Some(Entry::Skipped(_)) => {
                serde_json::from_str("null").map_err(|_| StepResultError::Skipped { step: owned() })
            }
            Some(Entry::Group(size)) => Err(StepResultError::Group { step: owned(), size: *size }),
            Some(Entry::TooLarge(size)) => Err(StepResultError::TooLarge { step: owned(), size: *size }),
        }
    }

    /// An entry without a value has less than this many bytes beside the step's name.
    const ENTRY: usize = 40;

    fn has_room(&self, step: &str, more: usize) -> bool {
        self.size + step.len() + Self::ENTRY + more <= RESULTS_LIMIT
    }

    fn insert(&mut self, step: &str, entry: Entry) {
        // With thousands of predecessors, even their names have no room.
        if !self.has_room(step, 0) {
            return;
        }
        let value = if let Entry::Value(value) = &entry { value.get().len() } else { 0 };
        self.size += step.len() + Self::ENTRY + value;
        self.steps.insert(step.to_owned(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_beyond_the_bound_is_left_out_with_its_size_and_the_others_are_there() {
        let mut results = PredecessorResults::default();
        results.add("small", Some("1"));
        results.add("large", Some(&format!("{:?}", "x".repeat(RESULTS_LIMIT))));
        results.add("last", Some("[2]"));
        for step in 0..2_000 {
            results.add(&format!("{step}-{}", "s".repeat(50)), None);
        }
        let header = results.to_header();
        assert!(header.len() <= RESULTS_LIMIT, "{}", header.len());
        let read = PredecessorResults::from_header(&header).unwrap();
        assert_eq!((read.get::<u8>("small").unwrap(), read.get::<Vec<u8>>("last").unwrap()), (1, vec![2]));
        let error = read.get::<String>("large").unwrap_err();
        assert!(matches!(&error, StepResultError::TooLarge { size: 32_770, .. }), "{error}");
        assert!(error.to_string().contains("return its address"), "{error}");
        assert!(matches!(read.get::<()>("other"), Err(StepResultError::NotAPredecessor { .. })));
    }

    #[test]
    fn a_skipped_step_reads_as_none_and_as_nothing_else() {
        let mut results = PredecessorResults::default();
        results.add_skipped("charge");
        results.add("ship", None);
        let read = PredecessorResults::from_header(&results.to_header()).unwrap();
        assert_eq!(read.get::<Option<u8>>("charge").unwrap(), None);
        assert!(matches!(read.get::<u8>("charge"), Err(StepResultError::Skipped { .. })));
        read.get::<()>("ship").unwrap();
        assert!(matches!(read.get::<u8>("ship"), Err(StepResultError::Decode { .. })));
    }

    #[test]
    fn a_result_of_another_type_is_reported_without_its_values() {
        let mut results = PredecessorResults::default();
        results.add("charge", Some(r#""4111 1111 1111 1111""#));
        let text = results.get::<u64>("charge").unwrap_err().to_string();
        assert!(text.contains("invalid type: string, expected u64") && !text.contains("4111"), "{text}");
    }
}
