//! Runs of contestants in turn, in several rounds, each as a child process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leveret::Job;

use crate::{
    assignment::{Assignment, ChildMessage, Consume, Consumer, Mail, Measured, Work},
    bench::Bench,
    broker::{Broker, Kind},
    child::Child,
    measures::{Measure, Row, Sample, Table},
    stub::Feed,
};

/// The framework. The span of each job is enabled, and a registry keeps it.
pub(crate) const LEVERET: &str = "leveret";
/// The framework with handlers that yield once.
pub(crate) const LEVERET_TASKS: &str = "leveret, a task each";
/// The framework with the log subscriber of its workers, which formats the fields of each span as text.
pub(crate) const LEVERET_LOGGING: &str = "leveret, spans as text";
/// A naive consumer written by hand.
pub(crate) const AWAITED: &str = "lapin, each ack awaited";
/// A hand-tuned consumer.
pub(crate) const COALESCED: &str = "lapin, acks coalesced";
/// The framework with handlers that always fail.
pub(crate) const ALL_FAIL: &str = "all fail, again and again";

/// The contestants of most scenarios.
pub(crate) const ALL: [(&str, (Consumer, Work)); 5] = [
    (LEVERET, (Consumer::Leveret, Work::Nothing)),
    (LEVERET_TASKS, (Consumer::Leveret, Work::Yield)),
    (LEVERET_LOGGING, (Consumer::LeveretLogging, Work::Nothing)),
    (AWAITED, (Consumer::Awaited, Work::Nothing)),
    (COALESCED, (Consumer::Coalesced, Work::Nothing)),
];

/// A drain: queues are filled and then consumed until they are empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    pub(crate) kind: Kind,
    pub(crate) queues: u64,
    pub(crate) prefetch: u16,
    pub(crate) concurrency: u16,
    /// The total number of jobs.
    pub(crate) jobs: u64,
    pub(crate) bytes: usize,
}

impl Default for Drain {
    fn default() -> Self {
        Self { kind: Kind::Quorum, queues: 1, prefetch: 100, concurrency: 100, jobs: 60_000, bytes: 200 }
    }
}

impl Drain {
    /// Fills the queues, runs one contestant, and deletes the queues.
    pub(crate) async fn run(&self, broker: &Broker, consumer: Consumer, work: Work) -> Result<Sample> {
        let mut queues = Vec::new();
        for _ in 0..self.queues {
            let queue = broker.queue(self.kind).await?;
            match self.kind {
                Kind::Subscription => broker.emit(self.jobs, self.bytes).await?,
                Kind::Quorum | Kind::Classic => broker.fill(&queue, self.jobs / self.queues, self.bytes).await?,
            }
            queues.push(queue);
        }
        let consume = self.consume(broker.url(), &queues, consumer, work);
        let sample = measure(&Assignment::Consume(consume), Some(broker)).await;
        for queue in &queues {
            broker.delete(queue, sample.is_ok() && work != Work::FailAlways).await?;
        }
        sample
    }

    pub(crate) fn consume(&self, url: &str, queues: &[String], consumer: Consumer, work: Work) -> Consume {
        Consume {
            consumer,
            url: url.to_owned(),
            queues: queues.to_vec(),
            kind: self.kind,
            prefetch: self.prefetch,
            concurrency: self.concurrency,
            work,
            inline_budget: None,
            jobs: self.jobs / self.queues * self.queues,
            latency: false,
        }
    }

    /// The feed of the stub for this drain.
    pub(crate) fn feed(&self) -> Result<Feed> {
        let body = serde_json::to_vec(&Mail::new(0, self.bytes))?.into();
        Ok(Feed { queue: Mail::QUEUE.to_owned(), job: Mail::NAME.to_owned(), body, jobs: self.jobs })
    }

    /// The total number of concurrent attempts.
    pub(crate) fn in_flight(&self) -> f64 {
        self.queues as f64 * f64::from(self.concurrency)
    }
}

/// Runs each contestant once per round. Each round begins with another one.
pub(crate) async fn contest<C: Copy>(
    bench: &Bench,
    scenario: &str,
    contestants: &[(&'static str, C)],
    mut run: impl AsyncFnMut(C) -> Result<Sample>,
) -> Result<Table> {
    if !bench.selects(scenario) {
        return Ok(Table { scenario: scenario.to_owned(), rows: Vec::new() });
    }
    let mut rows: Vec<Row> =
        contestants.iter().map(|(contestant, _)| Row { contestant, samples: Vec::new() }).collect();
    for round in 0..bench.repetitions {
        for offset in 0..contestants.len() {
            let index = (offset + round) % contestants.len();
            let (contestant, how) = contestants[index];
            bench.show(&format!("{scenario}: {contestant}, round {} of {}", round + 1, bench.repetitions));
            let sample = run(how).await.with_context(|| format!("{scenario}: {contestant}"))?;
            rows[index].samples.push(sample);
        }
    }
    Ok(Table { scenario: scenario.to_owned(), rows })
}

/// Runs a child to its end, and returns its measurement and the CPU time of the broker.
pub(crate) async fn measure(assignment: &Assignment, broker: Option<&Broker>) -> Result<Sample> {
    let started = Instant::now();
    let mut child = Child::start(assignment, &[])?;
    let mut sample = Sample::new();
    let mut broker_before = None;
    loop {
        match child.next().await? {
            ChildMessage::First => {
                sample.insert(Measure::StartMs, started.elapsed().as_secs_f64() * 1e3);
            }
            ChildMessage::From => broker_before = broker.and_then(Broker::cpu),
            ChildMessage::To(measured) => {
                let used =
                    broker.and_then(Broker::cpu).zip(broker_before).map(|(now, before)| now.saturating_sub(before));
                sample.extend(rates(&measured, used));
            }
            ChildMessage::End { peak_rss_kib, latency_us } => {
                sample.insert(Measure::PeakRssMb, peak_rss_kib as f64 / 1024.0);
                if let Some(latency) = latency_us {
                    sample.insert(Measure::LatencyP50Us, latency.p50);
                    sample.insert(Measure::LatencyP99Us, latency.p99);
                }
                break;
            }
        }
    }
    child.end().await?;
    Ok(sample)
}

fn rates(measured: &Measured, broker: Option<Duration>) -> Vec<(Measure, f64)> {
    let Measured { jobs, seconds, cpu_seconds, busy_seconds } = *measured;
    let jobs = jobs as f64;
    let mut rates = vec![(Measure::JobsPerSecond, jobs / seconds), (Measure::WorkerCpuUs, cpu_seconds * 1e6 / jobs)];
    rates.extend(broker.map(|used| (Measure::BrokerCpuUs, used.as_secs_f64() * 1e6 / jobs)));
    if busy_seconds > 0.0 {
        // The average number of running handlers. The scenario divides it by the ideal number.
        rates.push((Measure::IdealPercent, busy_seconds / seconds));
    }
    rates
}
