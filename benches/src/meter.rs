//! Counts the jobs of a child process, and measures the part of the run without start and end.

use std::{
    io::Write,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    assignment::{ChildMessage, Latency, Measured, now_us},
    figures::percentile,
    machine,
};

#[derive(Debug)]
pub(crate) struct Meter {
    done: AtomicU64,
    /// The clocks run between these numbers of jobs.
    from: u64,
    to: u64,
    jobs: u64,
    busy_nanos: AtomicU64,
    start: OnceLock<Mark>,
    latencies: Option<Mutex<Vec<u64>>>,
    finished: CancellationToken,
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    cpu: Duration,
    busy_nanos: u64,
}

impl Meter {
    /// Measures from a tenth of the jobs to nine tenths.
    pub(crate) fn new(jobs: u64, latency: bool) -> Self {
        Self {
            done: AtomicU64::new(0),
            from: (jobs / 10).max(1),
            to: jobs - jobs / 10,
            jobs,
            busy_nanos: AtomicU64::new(0),
            start: OnceLock::new(),
            latencies: latency.then(Mutex::default),
            finished: CancellationToken::new(),
        }
    }

    /// Counts a job that was published at this time.
    pub(crate) fn count(&self, sent_us: u64) {
        if let Some(latencies) = &self.latencies {
            latencies.lock().unwrap_or_else(PoisonError::into_inner).push(now_us().saturating_sub(sent_us));
        }
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done == 1 {
            report(&ChildMessage::First);
        }
        if done == self.from {
            drop(self.start.set(self.mark()));
            report(&ChildMessage::From);
        }
        if done == self.to
            && let Some(start) = self.start.get()
        {
            let now = self.mark();
            report(&ChildMessage::To(Measured {
                jobs: self.to - self.from,
                seconds: (now.at - start.at).as_secs_f64(),
                cpu_seconds: now.cpu.saturating_sub(start.cpu).as_secs_f64(),
                busy_seconds: Duration::from_nanos(now.busy_nanos - start.busy_nanos).as_secs_f64(),
            }));
        }
        if done == self.jobs {
            self.finished.cancel();
        }
    }

    /// Adds time within a handler that computes.
    pub(crate) fn busy(&self, time: Duration) {
        self.busy_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Waits until all jobs are done.
    pub(crate) async fn finished(&self) {
        self.finished.cancelled().await;
    }

    /// Reports the final message.
    pub(crate) fn end(&self) {
        let latency_us = self.latencies.as_ref().map(|latencies| {
            let mut sorted = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
            sorted.sort_unstable();
            Latency { p50: percentile(&sorted, 0.5), p99: percentile(&sorted, 0.99) }
        });
        report(&ChildMessage::End { peak_rss_kib: machine::peak_rss_kib("self").unwrap_or(0), latency_us });
    }

    fn mark(&self) -> Mark {
        Mark { at: Instant::now(), cpu: machine::own_cpu(), busy_nanos: self.busy_nanos.load(Ordering::Relaxed) }
    }
}

fn report(message: &ChildMessage) {
    let line = serde_json::to_string(message).unwrap_or_default();
    // Without a reader the parent has ended, and this process ends with it.
    drop(std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()));
}
