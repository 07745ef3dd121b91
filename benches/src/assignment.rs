//! The assignment of a child process and its messages. Both are JSON, so that an argument and a line each carry one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leveret::{Event, Job, JobOutput};
use serde::{Deserialize, Serialize};

use crate::broker::Kind;

/// The job, event and request of all scenarios.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mail {
    pub(crate) number: u64,
    /// The time of the publish, in microseconds since the epoch.
    pub(crate) sent_us: u64,
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) body: String,
}

impl Job for Mail {
    const NAME: &'static str = "bench.mail";
    const QUEUE: &'static str = "leveret-bench";
}

impl Event for Mail {
    const TOPIC: &'static str = "leveret-bench.mail";
}

/// The result of a requested mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) number: u64,
    pub(crate) text: String,
}

impl JobOutput for Mail {
    type Output = Receipt;
}

impl Receipt {
    /// The receipt of a mail.
    pub(crate) fn of(mail: &Mail) -> Self {
        Self { number: mail.number, text: format!("sent to {}", mail.to) }
    }
}

impl Mail {
    /// A mail of `bytes` bytes as JSON, or more if its other fields are larger.
    pub(crate) fn new(number: u64, bytes: usize) -> Self {
        let mut mail = Self {
            number,
            sent_us: now_us(),
            to: "ada@example.com".to_owned(),
            subject: "Your invoice is ready".to_owned(),
            body: String::new(),
        };
        let rest = serde_json::to_vec(&mail).map_or(0, |json| json.len());
        mail.body = "x".repeat(bytes.saturating_sub(rest));
        mail
    }
}

/// Microseconds since the epoch.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Assignment {
    Consume(Consume),
    Publish(Publish),
    Insert(Insert),
    Emit(Emit),
    Request(Request),
    Respond(Respond),
}

/// Consumes until `jobs` jobs are done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Consume {
    pub(crate) consumer: Consumer,
    pub(crate) url: String,
    pub(crate) queues: Vec<String>,
    pub(crate) kind: Kind,
    pub(crate) prefetch: u16,
    pub(crate) concurrency: u16,
    pub(crate) work: Work,
    /// Replaces the default inline budget, where handlers are slower than usual.
    pub(crate) inline_budget: Option<Duration>,
    /// The number of jobs. 0 means no end.
    pub(crate) jobs: u64,
    /// Records the time from publish to handler of each job.
    pub(crate) latency: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Consumer {
    Leveret,
    /// The framework with a subscriber that formats the span of each job as text.
    LeveretLogging,
    /// lapin with each ack awaited: a naive loop.
    Awaited,
    /// lapin with batched acks: a hand-tuned loop.
    Coalesced,
}

/// The work of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    Nothing,
    /// The handler yields once, so that it gets a task of its own.
    Yield,
    Sleep(Duration),
    /// The handler computes for about this time on the blocking pool.
    Compute(Duration),
    /// The first attempt of every n-th job fails.
    FailOnce(u64),
    FailAlways,
}

/// Inserts a row into PostgreSQL for each of `jobs` jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Insert {
    pub(crate) url: String,
    pub(crate) database: String,
    pub(crate) queue: String,
    pub(crate) jobs: u64,
    /// The most rows of a statement; none for a statement for each row.
    pub(crate) batch: Option<u16>,
}

/// Emits `jobs` events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Emit {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) jobs: u64,
    /// Events in flight.
    pub(crate) window: usize,
}

/// Sends `jobs` requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) queue: String,
    pub(crate) jobs: u64,
    /// Requests in flight.
    pub(crate) window: usize,
}

/// Answers requests until the process is killed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Respond {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) queue: String,
}

/// The framework, or a client written by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Client {
    Leveret,
    Lapin,
}

/// Publishes `jobs` jobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Publish {
    pub(crate) publisher: Publisher,
    pub(crate) url: String,
    pub(crate) queue: String,
    pub(crate) jobs: u64,
    pub(crate) bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Publisher {
    LeveretAwaited,
    LeveretPipelined,
    LeveretAll,
    LapinAwaited,
    LapinPipelined,
}

/// A message of a child on its standard output, one per line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ChildMessage {
    /// The first job has reached its handler.
    First,
    /// The measured part begins.
    From,
    /// The measured part has ended.
    To(Measured),
    /// All jobs are done.
    End { peak_rss_kib: u64, latency_us: Option<Latency> },
}

/// The measurement between `From` and `To`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) jobs: u64,
    pub(crate) seconds: f64,
    /// User and system time of the whole process.
    pub(crate) cpu_seconds: f64,
    /// The total time within handlers that compute.
    pub(crate) busy_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}
