//! The metrics of schedules, by the label `schedule`.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::observe::metrics::{counter, register};

#[derive(Debug)]
pub(crate) struct ScheduleVecs {
    leader: IntGaugeVec,
    last: IntGaugeVec,
    next: IntGaugeVec,
    fires: IntCounterVec,
    missed: IntCounterVec,
}

/// Metric handles of one schedule.
#[derive(Debug)]
pub(crate) struct ScheduleMetrics {
    leader: IntGauge,
    last: IntGauge,
    next: IntGauge,
    fires: IntCounter,
    missed: IntCounter,
}

impl ScheduleVecs {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let labels = &["schedule"];
        let gauge = |name: &str, help: &str| register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        Ok(Self {
            leader: gauge("schedule_leader", "Whether this process leads the schedule")?,
            last: gauge(
                "schedule_last_fire_timestamp_seconds",
                "Last published fire time; 0 unless this process leads",
            )?,
            next: gauge("schedule_next_fire_timestamp_seconds", "Next fire time; 0 unless this process leads")?,
            fires: counter(registry, "schedule_fires_total", "Fire times published", labels)?,
            missed: counter(registry, "schedule_missed_total", "Fire times missed and skipped", labels)?,
        })
    }
}

impl super::Metrics {
    pub(crate) fn schedule(&self, name: &str) -> ScheduleMetrics {
        let of = &self.schedules;
        ScheduleMetrics {
            leader: of.leader.with_label_values(&[name]),
            last: of.last.with_label_values(&[name]),
            next: of.next.with_label_values(&[name]),
            fires: of.fires.with_label_values(&[name]),
            missed: of.missed.with_label_values(&[name]),
        }
    }
}

impl ScheduleMetrics {
    pub(crate) fn lead(&self) {
        self.leader.set(1);
    }

    /// Resets the values that only the leader knows.
    pub(crate) fn resign(&self) {
        for gauge in [&self.leader, &self.last, &self.next] {
            gauge.set(0);
        }
    }

    /// Sets the last and next fire time, in milliseconds since the epoch.
    pub(crate) fn set_fires(&self, last: Option<u64>, next: Option<u64>) {
        for (gauge, ms) in [(&self.last, last), (&self.next, next)] {
            gauge.set(ms.and_then(|ms| i64::try_from(ms / 1000).ok()).unwrap_or(0));
        }
    }

    pub(crate) fn fired(&self, fires: usize, missed: u64) {
        self.fires.inc_by(fires as u64);
        self.missed.inc_by(missed);
    }
}
