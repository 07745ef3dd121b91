//! The Prometheus metrics of a process, under the names of the table in docs/src/metrics.md.
//!
//! Labels are `queue`, `job` and the one shown. For the jobs that a worker handles, handles are looked up once, at
//! registration, and every series that can move exists from the start at 0. A publish series begins with the first
//! publish of its kind, so it is never seen at 0.

use std::{
    collections::HashSet,
    hash::BuildHasher,
    sync::{PoisonError, RwLock},
};

use foldhash::fast::RandomState;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

use crate::outcome::{ErrorKind, Finish};

/// Label of jobs without a registered handler.
pub(crate) const UNKNOWN: &str = "unknown";

/// Most pairs of queue and job with their own publish series. The names come from publishers: a relay reads them from a
/// database, so their number is unbounded. Publishes to missing queues have a lower limit, so that they leave room for
/// others.
const MOST_CONFIRMED: usize = 1_000;
const MOST_FAILED: usize = 100;

const DURATION_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0];
const WAIT_BUCKETS: &[f64] =
    &[0.005, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0];
const CONFIRM_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_000.0];
const ATTEMPT_BUCKETS: &[f64] = &[1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 25.0];

/// All metrics of one broker handle.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    published: IntCounterVec,
    emitted: IntCounterVec,
    /// Hashes of the pairs of queue and job that have series in `published`.
    named: RwLock<HashSet<u64>>,
    hasher: RandomState,
    received: IntCounterVec,
    finished: IntCounterVec,
    errors: IntCounterVec,
    transient: IntCounterVec,
    acks_lost: IntCounterVec,
    pub(crate) reconnects: IntCounter,
    pub(crate) status_updates_lost: IntCounter,
    duration: HistogramVec,
    wait: HistogramVec,
    critical: HistogramVec,
    attempts: HistogramVec,
    pub(crate) confirm: Histogram,
    held: IntCounterVec,
    batches: HistogramVec,
    pub(crate) requests: RequestMetrics,
    circuit: IntGaugeVec,
    in_progress: IntGaugeVec,
    limit: IntGaugeVec,
    expected: IntGaugeVec,
    up: IntGaugeVec,
    /// Republished copies of jobs that the broker has not confirmed yet.
    pub(crate) unconfirmed: IntGauge,
    pub(crate) connected: IntGauge,
    pub(crate) blocked: IntGauge,
    #[cfg(feature = "cron")]
    schedules: ScheduleVecs,
}

mod requests;
#[cfg(feature = "cron")]
mod schedules;
use self::requests::RequestMetrics;
#[cfg(feature = "cron")]
pub(crate) use self::schedules::ScheduleMetrics;
#[cfg(feature = "cron")]
use self::schedules::ScheduleVecs;

/// Metric handles of one job name on one queue.
#[derive(Debug)]
pub(crate) struct JobMetrics {
    received: [IntCounter; 2],
    finished: Vec<IntCounter>,
    errors: Vec<IntCounter>,
    pub(crate) transient: IntCounter,
    pub(crate) duration: Histogram,
    pub(crate) wait: Histogram,
    critical: Histogram,
    attempts: Histogram,
}

/// Metric handles of one queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueMetrics {
    pub(crate) in_progress: IntGauge,
    pub(crate) acks_lost: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("leveret".to_owned()), None)?;
        let r = &registry;
        build_info(r)?;
        Ok(Self {
            published: counter(r, "jobs_published_total", "Publishes by outcome", &["queue", "job", "outcome"])?,
            emitted: counter(r, "events_emitted_total", "Events published by outcome", &["topic", "outcome"])?,
            named: RwLock::default(),
            hasher: RandomState::default(),
            received: counter(r, "jobs_received_total", "Deliveries received", &["queue", "job", "redelivered"])?,
            finished: counter(r, "jobs_finished_total", "Deliveries settled", &["queue", "job", "outcome"])?,
            errors: counter(r, "job_errors_total", "Failed attempts and refused jobs", &["queue", "job", "kind"])?,
            transient: counter(r, "jobs_transient_total", "Jobs published without persistence", &["queue", "job"])?,
            acks_lost: counter(r, "acks_lost_total", "Acks lost because their channel had closed", &["queue"])?,
            reconnects: plain_counter(r, "reconnects_total", "Reconnects after a lost connection")?,
            status_updates_lost: plain_counter(
                r,
                "status_updates_lost_total",
                "Status updates of tracked jobs that could not be published",
            )?,
            duration: histogram(r, "job_duration_seconds", "Time an attempt took", DURATION_BUCKETS)?,
            wait: histogram(r, "job_wait_seconds", "Time a job was ready before it started", WAIT_BUCKETS)?,
            critical: histogram(r, "job_critical_time_seconds", "First publish to the end of the job", WAIT_BUCKETS)?,
            attempts: histogram(r, "job_attempts", "Attempts a job took until its end", ATTEMPT_BUCKETS)?,
            confirm: confirm(r)?,
            held: counter(
                r,
                "jobs_held_total",
                "Jobs that were delayed by a limit or an open circuit",
                &["queue", "job", "reason"],
            )?,
            batches: histogram(r, "batch_jobs", "Jobs of a batch that ran", BATCH_BUCKETS)?,
            requests: RequestMetrics::new(r)?,
            circuit: gauge(
                r,
                "circuit_state",
                "0 while the circuit is closed, 1 while it is half-open, 2 while it is open",
                &["circuit"],
            )?,
            in_progress: gauge(r, "jobs_in_progress", "Attempts running now", &["queue"])?,
            limit: gauge(r, "worker_concurrency_limit", "Attempts that may run at once", &["queue"])?,
            expected: gauge(r, "consumers_expected", "Consumers that should be connected", &["queue"])?,
            up: gauge(r, "consumers_up", "Connected consumers", &["queue"])?,
            unconfirmed: plain_gauge(
                r,
                "copies_unconfirmed",
                "Retries, delays and dead letters that the broker has not confirmed yet",
            )?,
            connected: plain_gauge(
                r,
                "broker_connected",
                "Open connections: one consumes, one publishes, one sends direct replies; the last two open when first needed",
            )?,
            blocked: plain_gauge(r, "broker_blocked", "Connections on which the broker blocks publishes")?,
            #[cfg(feature = "cron")]
            schedules: ScheduleVecs::new(r)?,
            registry,
        })
    }

    /// Renders the metrics in Prometheus' text format 0.0.4.
    pub(crate) fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn published(&self, queue: &str, job: &str, outcome: &str) -> IntCounter {
        let (queue, job) = if self.is_named(queue, job, outcome) { (queue, job) } else { (UNKNOWN, UNKNOWN) };
        self.published.with_label_values(&[queue, job, outcome])
    }

    pub(crate) fn emitted(&self, topic: &str, outcome: &str) -> IntCounter {
        let topic = if self.is_named("", topic, outcome) { topic } else { UNKNOWN };
        self.emitted.with_label_values(&[topic, outcome])
    }

    /// Returns whether publishes of a job to a queue, or of an event, have their own series.
    fn is_named(&self, queue: &str, job: &str, outcome: &str) -> bool {
        let most = if outcome == "confirmed" { MOST_CONFIRMED } else { MOST_FAILED };
        let pair = self.hasher.hash_one((queue, job));
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        if named.contains(&pair) || named.len() >= most {
            return named.contains(&pair);
        }
        drop(named);
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.contains(&pair) || (named.len() < most && named.insert(pair))
    }

    pub(crate) fn job(&self, queue: &str, job: &str) -> JobMetrics {
        let labels = [queue, job];
        let with = |vec: &IntCounterVec, value: &str| vec.with_label_values(&[queue, job, value]);
        JobMetrics {
            received: [with(&self.received, "false"), with(&self.received, "true")],
            finished: Finish::ALL.iter().map(|(_, name)| with(&self.finished, name)).collect(),
            errors: ErrorKind::ALL.iter().map(|kind| with(&self.errors, kind.as_str())).collect(),
            transient: self.transient.with_label_values(&labels),
            duration: self.duration.with_label_values(&labels),
            wait: self.wait.with_label_values(&labels),
            critical: self.critical.with_label_values(&labels),
            attempts: self.attempts.with_label_values(&labels),
        }
    }

    pub(crate) fn held(&self, queue: &str, job: &str, reason: &str) -> IntCounter {
        self.held.with_label_values(&[queue, job, reason])
    }

    /// Returns the sizes of the batches of a job.
    pub(crate) fn batches(&self, queue: &str, job: &str) -> Histogram {
        self.batches.with_label_values(&[queue, job])
    }

    pub(crate) fn circuit(&self, name: &str) -> IntGauge {
        self.circuit.with_label_values(&[name])
    }

    pub(crate) fn queue(&self, queue: &str) -> QueueMetrics {
        QueueMetrics {
            in_progress: self.in_progress.with_label_values(&[queue]),
            acks_lost: self.acks_lost.with_label_values(&[queue]),
        }
    }

    /// Counts the running attempts on all queues.
    pub(crate) fn running(&self) -> i64 {
        let families = self.in_progress.collect();
        let gauges = families.iter().flat_map(|family| family.get_metric());
        gauges.map(|metric| metric.get_gauge().get_value() as i64).sum()
    }

    pub(crate) fn set_limit(&self, queue: &str, limit: i64) {
        self.limit.with_label_values(&[queue]).set(limit);
    }

    /// Returns the gauges `consumers_expected` and `consumers_up` of a queue.
    pub(crate) fn consumers(&self, queue: &str) -> (IntGauge, IntGauge) {
        (self.expected.with_label_values(&[queue]), self.up.with_label_values(&[queue]))
    }
}

impl JobMetrics {
    pub(crate) fn received(&self, redelivered: bool) {
        self.received[usize::from(redelivered)].inc();
    }

    pub(crate) fn error(&self, kind: ErrorKind) {
        if let Some(index) = ErrorKind::ALL.iter().position(|known| *known == kind) {
            self.errors[index].inc();
        }
    }

    pub(crate) fn finished(&self, finish: Finish) {
        if let Some(index) = Finish::ALL.iter().position(|(known, _)| *known == finish) {
            self.finished[index].inc();
        }
    }

    /// Records the end of a job: its attempts and the seconds since its first publish.
    pub(crate) fn ended(&self, attempts: u32, age: Option<f64>) {
        self.attempts.observe(f64::from(attempts));
        if let Some(age) = age {
            self.critical.observe(age);
        }
    }
}

fn build_info(r: &Registry) -> Result<(), prometheus::Error> {
    let build = Opts::new("build_info", "Always 1; the label holds the version of the framework");
    register(r, Gauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")))?)?.set(1.0);
    Ok(())
}

fn confirm(r: &Registry) -> Result<Histogram, prometheus::Error> {
    let opts = HistogramOpts::new("publish_confirm_seconds", "Time from a publish to the broker's confirm");
    register(r, Histogram::with_opts(opts.buckets(CONFIRM_BUCKETS.to_vec()))?)
}

fn plain_counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(name, help)?)
}

fn plain_gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::new(name, help)?)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauge(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    register(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn histogram(r: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(r, HistogramVec::new(opts, &["queue", "job"])?)
}

#[cfg(test)]
mod tests {
    use crate::Broker;

    /// Returns the number of publish series, and the sum over those labelled as unknown.
    fn published(broker: &Broker) -> (usize, u64) {
        let text = broker.metrics_text();
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("leveret_jobs_published_total{")).collect();
        let folded = lines.iter().filter(|line| line.contains(r#"queue="unknown""#));
        let count = |line: &&&str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        (lines.len(), folded.map(|line| count(&line)).sum())
    }

    #[tokio::test]
    async fn names_of_jobs_and_queues_that_are_published_to_make_a_bounded_number_of_series() {
        let broker = Broker::memory();
        let publisher = broker.publisher();
        for number in 0..2_000 {
            let publish = publisher.publish_raw(format!("job-{number}"), format!("queue-{number}"), "{}");
            publish.await.unwrap_err();
        }
        let (series, folded) = published(&broker);
        assert!(series <= 101 && folded >= 1_900, "{series} series, {folded} publishes folded");
    }
}
