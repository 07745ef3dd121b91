//! The trait `Job`, its derive, and the identity of a job.
//!
//! A job is separate from its handler, so a service that only publishes compiles no handler code.

use std::{fmt, ops::Deref};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::names;

/// A unit of work: plain data that is published to a queue and handled by a worker.
///
/// The wire form is the JSON of the type itself, with [`NAME`](Self::NAME) in the AMQP property `type`.
///
/// The [derive](derive@Job) implements the trait. Implement it by hand for names that are constants:
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// const EMAIL_QUEUE: &str = "email";
///
/// #[derive(Serialize, Deserialize)]
/// struct SendEmail {
///     to: String,
///     subject: String,
/// }
///
/// impl leveret::Job for SendEmail {
///     const NAME: &'static str = "email.send";
///     const QUEUE: &'static str = EMAIL_QUEUE;
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    label = "the trait `Job` is not implemented for `{Self}`",
    note = "derive it: `#[derive(Serialize, Deserialize, leveret::Job)]` and `#[job(name = \"…\", queue = \"…\")]`"
)]
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The name on the wire, `[a-z0-9_.-]{1,128}`. After a rename, jobs queued under the old name find no handler.
    const NAME: &'static str;
    /// The queue that jobs of this type are published to.
    const QUEUE: &'static str;
    /// True if the queue has lanes by priority ([`Queue::lanes`](crate::Queue::lanes)), so that publishers put each job
    /// into its own.
    const LANES: bool = false;

    /// Returns the JSON Schema of the payload for the catalogue of jobs, so that payloads can be checked before they are
    /// published by name.
    ///
    /// `None` by default: every payload is published.
    fn schema() -> Option<serde_json::Value> {
        None
    }
}

/// A job with a result that can be [requested](crate::Publisher::request).
///
/// The [derive](derive@Job) implements it for a job with the argument `output`. It is a trait of its own because most jobs
/// have no result that anything waits for.
///
/// ```
/// use leveret::{Job, JobOutput};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Quote { cents: u64 }
///
/// #[derive(Serialize, Deserialize, Job)]
/// #[job(name = "quote", queue = "quotes", output = Quote)]
/// struct GetQuote { item: String }
///
/// fn is<J: JobOutput<Output = Quote>>() {}
/// is::<GetQuote>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no result that can be requested",
    label = "the trait `JobOutput` is not implemented for `{Self}`",
    note = "name the type of its result: `#[job(…, output = Quote)]`"
)]
pub trait JobOutput: Job {
    /// The result of the job's handlers; `()` to wait for the end of the job alone.
    type Output: Serialize + DeserializeOwned + Send + 'static;
}

/// Implements [`Job`](trait@Job) for a struct or an enum.
///
/// ```
/// use leveret::Job;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Job)]
/// #[job(name = "email.send", queue = "email")]
/// struct SendEmail {
///     to: String,
///     subject: String,
/// }
///
/// assert_eq!((SendEmail::NAME, SendEmail::QUEUE), ("email.send", "email"));
/// ```
///
/// # Arguments
///
/// The attribute `#[job(…)]` is on the type and takes:
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `name = "email.send"` | required | The name on the wire: 1 to 128 of the characters a-z, 0-9, `_`, `.` and `-`. |
/// | `queue = "email"` | required | The queue that jobs are published to: 1 to 255 bytes without control characters. |
/// | `lanes` | no lanes | The queue has [lanes](crate::Queue::lanes), and publishers put each job into its own. |
/// | `schema` | no schema | The catalogue of jobs gets the type's [`JsonSchema`](https://docs.rs/schemars). |
/// | `schema = path::to::function` | no schema | The same with a schema from a function `fn() -> serde_json::Value`. |
/// | `output = Quote` | no result | The type of the result of [requests](crate::Publisher::request): a [`JobOutput`]. |
/// | `crate = path::to::leveret` | `::leveret` | The path of this crate, for crates that re-export it. |
///
/// A name or a queue is a string literal, so that the compiler can check it. For a constant, implement the trait by
/// hand. After a rename, jobs queued under the old name find no handler.
///
/// With a schema, payloads can be checked before they are published by name. The argument `schema` without a path
/// requires the crate schemars as a dependency.
///
/// ```
/// use leveret::Job;
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, JsonSchema, Job)]
/// #[job(name = "invoice.send", queue = "invoices", lanes, schema)]
/// struct SendInvoice {
///     number: u64,
/// }
///
/// assert!(SendInvoice::LANES);
/// assert!(SendInvoice::schema().is_some());
/// ```
///
/// # Generic types
///
/// A generic type is a job for the parameters that make it `Serialize + DeserializeOwned + Send + 'static`. All of them
/// share the name and the queue, so a worker handles one of them.
///
/// ```
/// use leveret::Job;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Job)]
/// #[job(name = "event.deliver", queue = "events")]
/// struct Deliver<T> {
///     event: T,
/// }
///
/// # fn is_job<T: Job>() {}
/// is_job::<Deliver<String>>();
/// ```
pub use leveret_macros::Job;

/// The items that the code of the derive names.
#[doc(hidden)]
pub mod __derive {
    pub use serde::{Serialize, de::DeserializeOwned};
    pub use serde_json::Value;
}

/// Returns whether `name` may be a job's name on the wire.
pub(crate) fn is_valid_name(name: &str) -> bool {
    names::job(name).is_ok()
}

/// The identity of a job, kept by all its copies: a UUIDv7 unless the publisher chose its own. It dereferences to its
/// text, and its JSON is that text.
///
/// ```
/// # async fn doc(publisher: leveret::Publisher, job: impl leveret::Job) -> Result<(), leveret::PublishError> {
/// let id = publisher.publish(&job).id("order-17").await?;
/// assert_eq!(id, "order-17");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// Generates an id: a UUIDv7.
    ///
    /// ```
    /// assert_ne!(leveret::JobId::mint(), leveret::JobId::mint());
    /// ```
    #[must_use]
    pub fn mint() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// Returns the id as in the AMQP property `message_id`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for JobId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for JobId {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for JobId {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl From<&Self> for JobId {
    fn from(id: &Self) -> Self {
        id.clone()
    }
}

impl From<&String> for JobId {
    fn from(id: &String) -> Self {
        Self(id.clone())
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
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
    use schemars::JsonSchema;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Serialize, Deserialize, Job)]
    #[job(crate = crate, name = "plain", queue = "first")]
    struct Plain;

    #[derive(Serialize, Deserialize, JsonSchema, Job)]
    #[job(crate = crate, lanes, schema)]
    #[job(queue = "größe 2", name = "send_1.x-y")]
    enum Send {
        Text(String),
        Page { url: String },
    }

    #[derive(Serialize, Deserialize, Job)]
    #[job(crate = crate, name = "deliver", queue = "events", schema = anything)]
    struct Deliver<T, const N: usize>
    where
        T: Clone,
    {
        event: T,
    }

    fn anything() -> Value {
        json!(true)
    }

    fn facts<J: Job>() -> (&'static str, &'static str, bool, Option<Value>) {
        (J::NAME, J::QUEUE, J::LANES, J::schema())
    }

    #[test]
    fn a_derived_job_has_the_facts_of_its_attributes_and_the_defaults_of_the_trait() {
        assert_eq!(facts::<Plain>(), ("plain", "first", false, None));
        let (name, queue, lanes, schema) = facts::<Send>();
        assert_eq!((name, queue, lanes), ("send_1.x-y", "größe 2", true));
        assert_eq!(schema.unwrap()["title"], "Send");
    }

    #[test]
    fn a_generic_type_is_a_job_for_parameters_that_can_be_encoded_and_decoded() {
        fn of<T: Serialize + DeserializeOwned + Clone + std::marker::Send + 'static>() {
            assert_eq!(facts::<Deliver<T, 3>>(), ("deliver", "events", false, Some(json!(true))));
        }
        of::<String>();
        of::<Vec<u64>>();
    }

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
