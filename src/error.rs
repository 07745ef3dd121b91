//! The errors of the framework: of a worker ([`Error`]), of a publish ([`PublishError`]) and of a handler
//! ([`JobError`]).

use std::{error::Error as StdError, fmt, io, net::SocketAddr, time::Duration};

mod publish;

pub use self::publish::PublishError;
use crate::text::error_chain;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// The reason why a worker cannot start, the fault in a setting, or an object on the broker that cannot be used.
///
/// ```
/// # use leveret::{Broker, Config, Error};
/// let config = Config { amqp_url: vec!["http://localhost".into()], ..Config::default() };
/// assert!(matches!(Broker::amqp(config), Err(Error::Url { .. })));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that is not an AMQP URL or has an invalid parameter. The error shows no login. Correct `AMQP_URL`.
    #[error("broker address {url}: {reason}; expected amqp://user:password@host:5672/vhost")]
    Url {
        /// The address, without its login.
        url: String,
        /// The fault.
        reason: String,
    },
    /// An `amqps://` address in a program that was compiled without TLS. Enable the feature `tls`.
    #[error("broker address {url} requires TLS, but this program was built without it: enable leveret's `tls` feature")]
    TlsNotCompiled {
        /// The address, without its login.
        url: String,
    },
    /// A setting with an invalid value. Its text names the value that was seen and the values that are allowed.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting by its environment variable or its builder method.
        setting: &'static str,
        /// The fault and its fix.
        reason: String,
    },
    /// Two handlers for one job name on one queue. Remove one, or give it another queue
    /// ([`HandlerOptions::queue`](crate::HandlerOptions::queue)).
    #[error("job {job:?} has two handlers on queue {queue:?}")]
    DuplicateHandler {
        /// The job's name.
        job: &'static str,
        /// The queue.
        queue: String,
    },
    /// A job name that not every client can send. Choose a name of the form in the text.
    #[error("job name {job:?} is not of the form [a-z0-9_.-]{{1,128}}")]
    JobName {
        /// The name.
        job: &'static str,
    },
    /// An invalid schedule. Correct the expression or the time zone that the text names.
    #[error("schedule {schedule:?}: {reason}")]
    Schedule {
        /// The schedule's name.
        schedule: String,
        /// The fault, with the expression or the time zone that has it.
        reason: String,
    },
    /// A queue without handlers, or a worker without handlers. Register a handler, or remove the queue.
    #[error("queue {queue:?} has no handler: register one for a job of this queue, or remove the queue")]
    NoHandler {
        /// The queue.
        queue: String,
    },
    /// A time budget that contradicts another. Shorten the inner one, or extend the outer one.
    #[error("{inner} is {inner_value:?}, which must be less than {outer} ({outer_value:?})")]
    Budget {
        /// The setting that must be smaller.
        inner: String,
        /// Its value.
        inner_value: Duration,
        /// The setting that must be greater.
        outer: String,
        /// Its value.
        outer_value: Duration,
    },
    /// An object on the broker with other arguments than Leveret declares. The text names both ways out.
    #[error(
        "{name} exists with other arguments: {detail}. To migrate, drain and delete it, then restart the worker; \
         or keep it with Queue::existing(..), without the guarantees of the missing arguments"
    )]
    Mismatch {
        /// The queue or exchange.
        name: String,
        /// The broker's own text, which names the argument and both values.
        detail: String,
    },
    /// The broker permanently refuses to declare an object that Leveret requires. The text names the remedy.
    #[error("the broker refuses to declare {name}: {detail}. {remedy}")]
    Undeclarable {
        /// The queue or exchange.
        name: String,
        /// The broker's own text.
        detail: String,
        /// The action for an operator.
        remedy: &'static str,
    },
    /// The process cannot listen on the health and metrics address. Set `LEVERET_HTTP_ADDR` to a free one.
    #[error(
        "cannot serve metrics and health on {address}; set LEVERET_HTTP_ADDR to another address; port 0 chooses a free port"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A queue or a stream that cannot be used now. It does not exist, this user has no permission for it, or the
    /// connection was lost. Fix the named cause, or try again if that is the connection.
    #[error("{name} is unavailable: {reason}")]
    Unavailable {
        /// The queue or the stream.
        name: String,
        /// The broker's own text, or what is known of the connection.
        reason: String,
    },
    /// A task of the worker ended by a panic, which is a bug in Leveret or in a [`Middleware`](crate::Middleware). The
    /// worker has stopped, so start its process again; the broker redelivers its unfinished jobs. A panic of a handler
    /// fails only its attempt.
    #[error("the worker has stopped: one of its tasks ended unexpectedly")]
    Stopped(#[source] Box<dyn StdError + Send + Sync>),
    /// The metrics of the handle cannot be registered. It is a bug in Leveret: please report it.
    #[error("the metrics cannot be registered")]
    Metrics(#[source] prometheus::Error),
    /// The job does not serialise to JSON. Its `Serialize` implementation failed, for example at a map whose keys are
    /// not strings.
    #[error("the job does not serialise")]
    Encode(#[source] serde_json::Error),
}

impl Error {
    pub(crate) fn unavailable(name: &str, reason: impl fmt::Display) -> Self {
        Self::Unavailable { name: name.to_owned(), reason: reason.to_string() }
    }

    /// Returns the error of a setting that is out of its bounds. `of` names what the setting belongs to.
    pub(crate) fn bounds(setting: &'static str, of: &str, value: impl fmt::Debug, bounds: &str) -> Self {
        Self::Setting { setting, reason: format!("{of} has {value:?}, which is out of range: set {bounds}") }
    }
}

/// The result of a handler.
///
/// ```
/// async fn nothing_to_do(_job: (), _ctx: leveret::Context<()>) -> leveret::JobResult {
///     Ok(())
/// }
/// # let _ = nothing_to_do;
/// ```
pub type JobResult<T = ()> = Result<T, JobError>;

/// The failure of an attempt, and how the worker handles it.
///
/// Any error converts into it with `?` and means *retry by the queue's policy*; so do strings. The constructors are the
/// exceptions. It does not implement [`std::error::Error`] itself: this allows every error to convert into it.
///
/// ```
/// use std::time::Duration;
/// use leveret::{JobError, JobResult};
///
/// fn handle(amount: &str) -> JobResult {
///     let cents: u64 = amount.parse().map_err(JobError::permanent)?;       // dead letter now
///     std::fs::write("/tmp/amount", cents.to_string())?;                   // retried by policy
///     if cents == 0 {
///         return Err(JobError::retry_after(Duration::from_secs(60), "not yet priced"));
///     }
///     if cents > 1_000_000 {
///         return Err(JobError::snooze(Duration::from_secs(3600)));         // no attempt charged
///     }
///     Ok(())
/// }
/// # let _ = handle;
/// ```
pub struct JobError {
    pub(crate) class: Class,
    /// The circuits that it counts against, if the handler named them.
    pub(crate) blamed: Option<&'static [&'static str]>,
    pub(crate) source: BoxError,
}

/// The outcome that a [`JobError`] requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Retry,
    RetryAfter(Duration),
    Snooze(Duration),
    /// The job goes on from its checkpoint.
    Yield,
    /// The job was already done.
    Duplicate,
    Permanent,
    /// The payload does not decode as the job's type.
    Decode,
    Timeout,
    Panic,
}

impl JobError {
    /// Dead-letters the job now, because a retry cannot succeed. The dead letter has the kind `permanent`.
    #[must_use]
    pub fn permanent(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Class::Permanent, error)
    }

    /// Retries after `delay`; the attempt counts. The delay is rounded up to a multiple of 100 ms, and is at most ten
    /// years less a day.
    #[must_use]
    pub fn retry_after(delay: Duration, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Class::RetryAfter(delay), error)
    }

    /// Delivers the job again after `delay`; no attempt counts. The delay is rounded up to a multiple of 100 ms. It is
    /// at least 100 ms, and at most ten years less a day. A job that snoozes for longer than its queue allows
    /// ([`Queue::snooze_limit`](crate::Queue::snooze_limit), 24 hours by default) is dead-lettered instead.
    #[must_use]
    pub fn snooze(delay: Duration) -> Self {
        Self::new(Class::Snooze(delay), "snoozed")
    }

    /// Ends a job that an earlier run completed, as an idempotent handler detects from its records. The job leaves the
    /// broker and is counted as `duplicate`, not as a failure.
    ///
    /// ```
    /// # use leveret::{Context, JobError, JobResult};
    /// # async fn is_charged(_: &str) -> bool { true }
    /// async fn charge(_order: (), ctx: Context<()>) -> JobResult {
    ///     if is_charged(ctx.job_id()).await {
    ///         return Err(JobError::duplicate());
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = charge;
    /// ```
    #[must_use]
    pub fn duplicate() -> Self {
        Self::new(Class::Duplicate, "done before")
    }

    /// Returns whether it ends an already completed job: nothing failed, which a middleware may need to know.
    ///
    /// ```
    /// # use leveret::JobError;
    /// assert!(JobError::duplicate().is_duplicate());
    /// assert!(!JobError::permanent("no such account").is_duplicate());
    /// ```
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.class == Class::Duplicate
    }

    /// Sets which [circuits](crate::CircuitBreaker) this error counts against, whatever its kind. All other circuits of
    /// the job count it as a success: an empty list states that every service answered. If the attempt did not use a
    /// service, the handler calls [`Context::skip_circuit`](crate::Context::skip_circuit).
    ///
    /// ```
    /// # use leveret::JobError;
    /// let login_refused = JobError::permanent("535 login refused").blame(&["smtp"]);
    /// let greylisted = JobError::from("451 try again later").blame(&[]);
    /// # let _ = (login_refused, greylisted);
    /// ```
    #[must_use]
    pub fn blame(mut self, circuits: &'static [&'static str]) -> Self {
        self.blamed = Some(circuits);
        self
    }

    pub(crate) fn new(class: Class, error: impl Into<BoxError>) -> Self {
        Self { class, blamed: None, source: error.into() }
    }

    /// Returns the error and its sources in one line, for logs and the `leveret-error` header.
    pub(crate) fn chain(&self) -> String {
        error_chain(&*self.source)
    }
}

impl<E: Into<BoxError>> From<E> for JobError {
    fn from(error: E) -> Self {
        Self::new(Class::Retry, error)
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobError").field("class", &self.class).field("error", &self.source).finish()
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}
