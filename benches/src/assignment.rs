//! What a child process is told to do, and what it tells of it: both JSON, so that one argument and one line are enough.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leveret::Job;
use serde::{Deserialize, Serialize};

/// The job of all scenarios.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mail {
    pub(crate) number: u64,
    /// When it was published, in microseconds since the epoch.
    pub(crate) sent_us: u64,
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) body: String,
}

impl Job for Mail {
    const NAME: &'static str = "bench.mail";
    const QUEUE: &'static str = "leveret-bench";
}

impl Mail {
    /// A mail of so many bytes as JSON, if that is enough for the rest of it.
    pub(crate) fn new(number: u64, bytes: usize) -> Self {
        let mut mail = Self {
            number,
            sent_us: now_us(),
            to: "somebody@example.com".to_owned(),
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
}

/// Consume until so many jobs are done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Consume {
    pub(crate) consumer: Consumer,
    pub(crate) url: String,
    pub(crate) queues: Vec<String>,
    /// The queues are not the framework's own.
    pub(crate) existing: bool,
    pub(crate) prefetch: u16,
    pub(crate) concurrency: u16,
    pub(crate) work: Work,
    /// Another one than the default, where time is not what it is elsewhere.
    pub(crate) inline_budget: Option<Duration>,
    /// 0 for ever.
    pub(crate) jobs: u64,
    /// Whether the time from publish to handler is noted for each job.
    pub(crate) latency: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Consumer {
    Leveret,
    /// The framework, and the span of each job is made into text for the log lines that a handler may write.
    LeveretLogging,
    /// lapin, each ack awaited: the loop of every tutorial.
    Awaited,
    /// lapin, acks coalesced: the best one can write by hand.
    Coalesced,
}

/// What a handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    Nothing,
    /// It is pending once, so that it gets a task of its own.
    Yield,
    Sleep(Duration),
    /// It computes for about so long, on the blocking pool.
    Compute(Duration),
    /// The first attempt at every so-manieth job fails.
    FailOnce(u64),
    FailAlways,
}

/// Publish so many jobs.
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

/// What a child says on its standard output, a line each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// The first job is in its handler.
    First,
    /// The measured part begins.
    From,
    /// It is over.
    To(Measured),
    /// All jobs are done.
    End { peak_rss_kib: u64, latency_us: Option<Latency> },
}

/// What happened between two words.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) jobs: u64,
    pub(crate) seconds: f64,
    /// User and system time of the whole process.
    pub(crate) cpu_seconds: f64,
    /// Time within handlers that compute, all together.
    pub(crate) busy_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}
