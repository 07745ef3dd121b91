//! What a job is: plain data with a stable name and a queue.
//!
//! A job is apart from its handler, so that a service which only publishes compiles no handler code.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::names;

/// A unit of work: plain data that is published to a queue and handled by a worker.
///
/// The wire form is the JSON of the type itself, with [`NAME`](Self::NAME) in the AMQP property `type`.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendEmail {
///     to: String,
///     subject: String,
/// }
///
/// impl leveret::Job for SendEmail {
///     const NAME: &'static str = "email.send";
///     const QUEUE: &'static str = "email";
/// }
/// ```
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The name on the wire, `[a-z0-9_.-]{1,128}`. Renaming it strands the jobs that are queued under the old name.
    const NAME: &'static str;
    /// The queue that jobs of this type are published to.
    const QUEUE: &'static str;
    /// Whether the queue has lanes by priority ([`Queue::lanes`](crate::Queue::lanes)), so that publishers put each job
    /// into its own.
    const LANES: bool = false;

    /// The JSON Schema of the payload, for the catalogue of jobs: whoever submits jobs by name can check them before.
    ///
    /// None by default. With the crate schemars it is one line: `Some(schemars::schema_for!(Self).to_value())`.
    fn schema() -> Option<serde_json::Value> {
        None
    }
}

/// Tells whether `name` may be a job's name on the wire.
pub(crate) fn is_valid_name(name: &str) -> bool {
    names::job(name).is_ok()
}

/// The identity of a job, kept by all its copies: a UUIDv7 unless the publisher chose its own.
///
/// ```
/// # async fn doc(publisher: leveret::Publisher, job: impl leveret::Job) -> Result<(), leveret::PublishError> {
/// let id = publisher.publish(&job).id("order-17").await?;
/// assert_eq!(id.as_str(), "order-17");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

impl JobId {
    /// A new one: a UUIDv7.
    ///
    /// ```
    /// assert_ne!(leveret::JobId::mint(), leveret::JobId::mint());
    /// ```
    #[must_use]
    pub fn mint() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// The id as it stands in the AMQP property `message_id`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for JobId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

impl From<&str> for JobId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_name_is_lower_case_and_bounded() {
        for good in ["email.send", "a", "x_1-2.y", &"n".repeat(128)] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "Email", "a b", "naïve", "a/b", &"n".repeat(129)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}
