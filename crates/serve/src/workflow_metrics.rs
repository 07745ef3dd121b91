//! The metrics of workflows.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use leveret_store::{AppliedWorkflows, InputOutcome, WorkflowCounts};
use prometheus::{Encoder, Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

const STATUSES: [&str; 3] = ["Pending", "Running", "Waiting"];
const WAITING_FOR: [&str; 3] = ["queue", "operator", "pause"];

/// The metrics of workflows. Gauges are those of the whole store: each server has the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkflowMetrics(Arc<OnceLock<Registered>>);

#[derive(Debug)]
struct Registered {
    registry: Registry,
    messages: IntCounterVec,
    ended: IntCounterVec,
    workflows: IntGaugeVec,
    waiting: IntGaugeVec,
    unpublished: IntGauge,
    unpublished_age: Gauge,
    still: Gauge,
}

impl Registered {
    fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("leveret".to_owned()), None)?;
        let opts = Opts::new("workflow_messages_total", "Definitions and ends of steps ingested, by outcome");
        let messages = IntCounterVec::new(opts, &["outcome"])?;
        let opts = Opts::new("workflows_ended_total", "Workflows that have ended, by status");
        let ended = IntCounterVec::new(opts, &["status"])?;
        let opts = Opts::new("workflows", "Unfinished workflows, by status");
        let workflows = IntGaugeVec::new(opts, &["status"])?;
        let opts = Opts::new("workflows_waiting", "Waiting workflows, by what they wait for");
        let waiting = IntGaugeVec::new(opts, &["reason"])?;
        let unpublished =
            IntGauge::new("workflow_outbox_messages", "Messages of workflows that are not published yet")?;
        let unpublished_age = Gauge::new(
            "workflow_outbox_oldest_seconds",
            "Age of the oldest message that is not published yet and waits for no queue",
        )?;
        let still = Gauge::new(
            "workflow_still_seconds",
            "Time since the last change of the workflow that stands still longest",
        )?;
        registry.register(Box::new(messages.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        registry.register(Box::new(workflows.clone()))?;
        registry.register(Box::new(waiting.clone()))?;
        registry.register(Box::new(unpublished.clone()))?;
        registry.register(Box::new(unpublished_age.clone()))?;
        registry.register(Box::new(still.clone()))?;
        Ok(Self { registry, messages, ended, workflows, waiting, unpublished, unpublished_age, still })
    }
}

impl WorkflowMetrics {
    /// Registers the metrics. Until then nothing is counted: a command has none.
    pub(crate) fn register(&self) -> Result<(), prometheus::Error> {
        // A second server on the same services shares the metrics of the first one.
        if self.0.get().is_none() {
            drop(self.0.set(Registered::new()?));
        }
        Ok(())
    }

    pub(crate) fn text(&self) -> String {
        let Some(own) = self.0.get() else { return String::new() };
        let mut text = Vec::new();
        match TextEncoder::new().encode(&own.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }

    pub(crate) fn ingested(&self, outcome: &InputOutcome) {
        let name = match outcome {
            InputOutcome::Applied => "applied",
            InputOutcome::Repeated => "repeated",
            InputOutcome::Conflict => "conflict",
            InputOutcome::Refused(leveret::workflow::engine::Refusal::Late) => "repeated",
            InputOutcome::Refused(_) => "refused",
            InputOutcome::Unknown => "unknown",
        };
        if let Some(own) = self.0.get() {
            own.messages.with_label_values(&[name]).inc();
        }
    }

    pub(crate) fn rejected(&self) {
        if let Some(own) = self.0.get() {
            own.messages.with_label_values(&["rejected"]).inc();
        }
    }

    pub(crate) fn count(&self, applied: &AppliedWorkflows) {
        let Some(own) = self.0.get() else { return };
        for (_, status) in &applied.ended {
            own.ended.with_label_values(&[status.name()]).inc();
        }
    }

    pub(crate) fn set(&self, counts: &WorkflowCounts, now: u64) {
        let Some(own) = self.0.get() else { return };
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for status in STATUSES {
            let number = counts.by_status.get(status).copied().unwrap_or(0);
            own.workflows.with_label_values(&[status]).set(gauge(number));
        }
        for reason in WAITING_FOR {
            let number = counts.by_waiting.get(reason).copied().unwrap_or(0);
            own.waiting.with_label_values(&[reason]).set(gauge(number));
        }
        let age = |since: Option<u64>| {
            since.map_or(0.0, |since| Duration::from_millis(now.saturating_sub(since)).as_secs_f64())
        };
        own.unpublished.set(gauge(counts.unpublished));
        own.unpublished_age.set(age(counts.unpublished_since));
        own.still.set(age(counts.still_since));
    }
}
