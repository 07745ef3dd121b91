//! The errors of the framework: what stops a worker ([`Error`]), what a publisher is told ([`PublishError`]) and what a
//! handler says ([`JobError`]).

use std::{error::Error as StdError, fmt, io, net::SocketAddr, time::Duration};

use crate::job::JobId;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// What keeps a worker from starting, or the way in which its set-up is wrong.
///
/// ```
/// # use leveret::{Broker, Config, Error};
/// let config = Config { amqp_url: vec!["http://localhost".into()], ..Config::default() };
/// assert!(matches!(Broker::amqp(config), Err(Error::Url { .. })));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that is not an AMQP one, or has a parameter that cannot work. Nothing of its login is shown.
    #[error("broker address {url}: {reason}; expected amqp://user:password@host:5672/vhost")]
    Url {
        /// The address, without its login.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `amqps://` in a program that was compiled without TLS.
    #[error("broker address {url} asks for TLS, but this program was built without it: enable leveret's `tls` feature")]
    TlsNotCompiled {
        /// The address, without its login.
        url: String,
    },
    /// A setting whose value cannot work.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting by its environment variable or its builder method.
        setting: &'static str,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// Two handlers for one job name on one queue.
    #[error("job {job:?} has two handlers on queue {queue:?}")]
    DuplicateHandler {
        /// The job's name.
        job: &'static str,
        /// The queue.
        queue: String,
    },
    /// A job name that other clients could not be relied on to send.
    #[error("job name {job:?} is not of the form [a-z0-9_.-]{{1,128}}")]
    JobName {
        /// The name.
        job: &'static str,
    },
    /// A schedule that cannot be kept.
    #[error("schedule {schedule:?}: {reason}")]
    Schedule {
        /// The schedule's name.
        schedule: String,
        /// What is wrong, with the expression or the time zone that is.
        reason: String,
    },
    /// A queue that no handler takes jobs from, or a worker without any handler.
    #[error("queue {queue:?} has no handler: register one for a job of this queue, or remove the queue")]
    NoHandler {
        /// The queue.
        queue: String,
    },
    /// A time budget that contradicts another one.
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
    /// Something exists on the broker with other arguments than Leveret declares.
    #[error(
        "{name} exists with other arguments: {detail}. To migrate, drain it, delete it and start again; \
         or adopt it as it is with Queue::existing(..), which gives up what the missing arguments guarantee"
    )]
    Mismatch {
        /// The queue or exchange.
        name: String,
        /// The broker's own words, which name the argument and both values.
        detail: String,
    },
    /// The broker refuses to declare something that Leveret requires, and would refuse it again.
    #[error("the broker does not declare {name}: {detail}. {remedy}")]
    Undeclarable {
        /// The queue or exchange.
        name: String,
        /// The broker's own words.
        detail: String,
        /// What an operator can do.
        remedy: &'static str,
    },
    /// The health and metrics address cannot be listened on.
    #[error(
        "cannot serve metrics and health on {address}; LEVERET_HTTP_ADDR sets another one, port 0 takes a free one"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The value of a setting is outside of its bounds. `of` names what the setting belongs to.
    pub(crate) fn bounds(setting: &'static str, of: &str, value: impl fmt::Debug, bounds: &str) -> Self {
        Self::Setting { setting, reason: format!("{of} has {value:?}, which is out of range: set {bounds}") }
    }
}

/// Why a publish did not end in a broker's confirm.
///
/// Only [`Uncertain`](Self::Uncertain) leaves open whether the job is on the queue: publishing again with the same id
/// may double it, and every other error means that it is not there.
///
/// ```
/// # use leveret::PublishError;
/// fn may_be_published(error: &PublishError) -> bool {
///     matches!(error, PublishError::Uncertain { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No queue of that name is bound: no worker has declared it yet, or the name is misspelt.
    #[error("no queue {queue:?}: start its worker once, or check the name")]
    Unroutable {
        /// The queue the job was for.
        queue: String,
    },
    /// The broker refused the job: a policy limits the queue's length, or the queue has no leader, as for a moment after it
    /// was declared. Publish it again later.
    #[error("queue {queue:?} refused the job: a length limit, or a queue that is not available")]
    Nacked {
        /// The queue the job was for.
        queue: String,
    },
    /// The broker closed the channel over this publish: no permission to write, no such exchange, or a payload larger
    /// than it takes (16 MiB from RabbitMQ 4.0 on).
    #[error("the broker refused a publish for queue {queue:?}: {reason}")]
    Refused {
        /// The queue the job was for.
        queue: String,
        /// The broker's own words.
        reason: String,
    },
    /// The connection was lost, or the time ran out, between sending and the confirm.
    #[error(
        "job {id} was sent but not confirmed: it may or may not be on the queue; publish it again with the same id"
    )]
    Uncertain {
        /// The job's id, to publish it again with.
        id: JobId,
    },
    /// The broker takes no publishes now (memory or disk alarm). Nothing was sent.
    #[error("the broker is blocked ({reason}): nothing was sent")]
    Blocked {
        /// The broker's own words.
        reason: String,
    },
    /// No connection within the publish timeout. Nothing was sent.
    #[error("no connection to the broker within {timeout:?} ({reason}): nothing was sent")]
    Unavailable {
        /// The publish timeout.
        timeout: Duration,
        /// What the last attempt to connect said.
        reason: String,
    },
    /// The payload, or the headers, exceed the limit. Nothing was sent.
    #[error("the {part} of the job is {size} bytes, more than the limit of {limit}: nothing was sent")]
    TooLarge {
        /// `payload` or `headers`.
        part: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A value that the wire cannot carry.
    #[error("{what} {value:?} cannot be published: {reason}")]
    Invalid {
        /// Which value: the job id, the job name, the queue, a header.
        what: &'static str,
        /// The value.
        value: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// Another job has the key of this one, which is to be unique. Nothing was sent.
    #[error("job {id} has the unique key {key:?}: nothing was sent")]
    NotUnique {
        /// The key.
        key: String,
        /// The job that has it.
        id: JobId,
    },
    /// The store of unique keys failed. Nothing was sent.
    #[error("the store of unique keys failed: nothing was sent")]
    UniqueKeys(#[source] BoxError),
    /// The job does not serialise to JSON.
    #[error("the job does not serialise")]
    Encode(#[from] serde_json::Error),
    /// The broker handle was closed.
    #[error("the broker handle is closed: nothing was sent")]
    Closed,
}

/// What a handler returns.
///
/// ```
/// async fn nothing_to_do(_job: (), _ctx: leveret::Context<()>) -> leveret::JobResult {
///     Ok(())
/// }
/// # let _ = nothing_to_do;
/// ```
pub type JobResult<T = ()> = Result<T, JobError>;

/// Why an attempt failed, and what is to be done about it.
///
/// Any error converts into it with `?` and means *retry by the queue's policy*; so do strings. The constructors are the
/// exceptions. It does not implement [`std::error::Error`] itself: that is what lets every error convert into it.
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
    /// The dependencies that it counts against, if the handler has said so.
    pub(crate) blamed: Option<&'static [&'static str]>,
    pub(crate) source: BoxError,
}

/// What a [`JobError`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Retry,
    RetryAfter(Duration),
    Snooze(Duration),
    /// It was done before.
    Duplicate,
    Permanent,
    /// The payload is not the job's type.
    Decode,
    Timeout,
    Panic,
}

impl JobError {
    /// Gives the job up now: trying again cannot help. It becomes a dead letter of kind `permanent`.
    #[must_use]
    pub fn permanent(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Class::Permanent, error)
    }

    /// Tries again after exactly `delay`, an attempt charged.
    #[must_use]
    pub fn retry_after(delay: Duration, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Class::RetryAfter(delay), error)
    }

    /// Comes back after exactly `delay`, no attempt charged. A job that snoozes for longer than its queue allows
    /// ([`Queue::snooze_limit`](crate::Queue::snooze_limit), 24 hours by default) becomes a dead letter instead.
    #[must_use]
    pub fn snooze(delay: Duration) -> Self {
        Self::new(Class::Snooze(delay), "snoozed")
    }

    /// Ends a job that was done before, as a handler finds out that keeps what it has done: it leaves the broker, counted
    /// as `duplicate`, and nothing failed.
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

    /// Whether it ends a job that was done before: nothing failed, as a middleware may want to know.
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

    /// Says which [dependencies](crate::CircuitBreaker) this error counts against, and that all others that the job needs are
    /// fine, whatever kind of error it is. An empty list blames none.
    ///
    /// ```
    /// # use leveret::JobError;
    /// let login_refused = JobError::permanent("535 login refused").blame(&["smtp"]);
    /// let our_own_fault = JobError::from("no template").blame(&[]);
    /// # let _ = (login_refused, our_own_fault);
    /// ```
    #[must_use]
    pub fn blame(mut self, dependencies: &'static [&'static str]) -> Self {
        self.blamed = Some(dependencies);
        self
    }

    pub(crate) fn new(class: Class, error: impl Into<BoxError>) -> Self {
        Self { class, blamed: None, source: error.into() }
    }

    /// The error and its sources in one line, for logs and the `leveret-error` header.
    pub(crate) fn chain(&self) -> String {
        let mut chain = self.source.to_string();
        let mut source = self.source.source();
        while let Some(error) = source {
            chain.push_str(": ");
            chain.push_str(&error.to_string());
            source = error.source();
        }
        chain
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
