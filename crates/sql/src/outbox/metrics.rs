//! The metrics of a relay, on the page of its broker handle.

use leveret::Broker;
use prometheus::{Gauge, IntCounter, IntGauge, core::Collector};

use super::operate::OutboxStatus;
use leveret::time::now_ms;

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pending: IntGauge,
    oldest: Gauge,
    set_aside: IntGauge,
    pub(super) published: IntCounter,
    pub(super) conflicts: IntCounter,
}

impl Metrics {
    /// Registers the metrics. A second relay on the same handle counts too, but its metrics are on no page.
    pub(super) fn new(broker: &Broker) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            pending: IntGauge::new("outbox_pending", "Jobs that wait for a relay")?,
            oldest: Gauge::new("outbox_oldest_seconds", "Age of the oldest job that waits for a relay")?,
            set_aside: IntGauge::new("outbox_set_aside", "Jobs that could not be published")?,
            published: IntCounter::new("outbox_published_total", "Jobs relayed")?,
            conflicts: IntCounter::new(
                "outbox_lease_conflicts_total",
                "Jobs whose lease expired before they were finished",
            )?,
        };
        let collectors: [Box<dyn Collector>; 5] = [
            Box::new(metrics.pending.clone()),
            Box::new(metrics.oldest.clone()),
            Box::new(metrics.set_aside.clone()),
            Box::new(metrics.published.clone()),
            Box::new(metrics.conflicts.clone()),
        ];
        for collector in collectors {
            if let Err(error) = broker.registry().register(collector) {
                tracing::warn!(%error, "another relay on this broker handle has the metrics of the outbox: this relay shows none");
                break;
            }
        }
        Ok(metrics)
    }

    pub(super) fn show(&self, status: &OutboxStatus) {
        self.pending.set(whole(status.pending));
        self.set_aside.set(whole(status.set_aside));
        let age = status.oldest_at.map_or(0, |at| now_ms().saturating_sub(at));
        self.oldest.set(age as f64 / 1000.0);
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
