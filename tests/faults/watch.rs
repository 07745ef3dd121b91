//! The metrics, readiness, memory and log volume of a process, sampled continuously.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use leveret_harness::Process;
use leveret_tests::load::now_us;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const EVERY: Duration = Duration::from_millis(50);
/// Longest wait for an answer; a stopped process does not answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// In every line that is about one job.
const JOB_LINES: &str = " leveret::attempt::task: ";

/// The state of a process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) at_us: u64,
    pub(crate) ready: bool,
    pub(crate) wanted: u64,
    pub(crate) up: u64,
    pub(crate) blocked: u64,
    /// Copies that the broker has not confirmed. A worker is not ready while it has any.
    pub(crate) unconfirmed: u64,
    pub(crate) reconnects: u64,
    pub(crate) acks_lost: u64,
    pub(crate) rss_kib: u64,
    pub(crate) threads: u64,
    /// Lines logged so far, without those about single jobs.
    pub(crate) lines: usize,
}

/// Samples a process until dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    samples: Arc<Mutex<Vec<Sample>>>,
    _task: JoinSet<()>,
}

impl Watch {
    pub(crate) fn start(process: Arc<Process>, address: String) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (mut task, seen) = (JoinSet::new(), Arc::clone(&samples));
        task.spawn(async move {
            loop {
                if let Ok(Ok(sample)) = timeout(PATIENCE, take(&process, &address)).await {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { samples, _task: task }
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn since(&self, us: u64) -> Vec<Sample> {
        self.samples().into_iter().filter(|sample| sample.at_us >= us).collect()
    }

    pub(crate) fn last(&self) -> Sample {
        self.samples().last().copied().unwrap_or_default()
    }
}

/// Ready only if it was so before and after the other figures were taken.
async fn take(process: &Process, address: &str) -> anyhow::Result<Sample> {
    let before = get(address, "/readyz").await?.0 == 200;
    let (_, text) = get(address, "/metrics").await?;
    let ready = before && get(address, "/readyz").await?.0 == 200;
    let sum = |name: &str| sum_of(&text, name);
    let (rss_kib, threads) = memory(process.id())?;
    Ok(Sample {
        at_us: now_us(),
        ready,
        wanted: sum("leveret_consumers_expected"),
        up: sum("leveret_consumers_up"),
        blocked: sum("leveret_broker_blocked"),
        unconfirmed: sum("leveret_copies_unconfirmed"),
        reconnects: sum("leveret_reconnects_total"),
        acks_lost: sum("leveret_acks_lost_total"),
        rss_kib,
        threads,
        lines: process.lines_without(JOB_LINES),
    })
}

/// The sum of a metric's series.
fn sum_of(text: &str, name: &str) -> u64 {
    let of = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    text.lines().filter_map(of).sum::<f64>() as u64
}

/// The resident memory in KiB and the number of threads.
fn memory(process: u32) -> anyhow::Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a field of /proc")?;
        anyhow::Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
    };
    Ok((number("VmRSS")?, number("Threads")?))
}

async fn get(address: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    Ok((head.split(' ').nth(1).context("no status")?.parse()?, body.to_owned()))
}
