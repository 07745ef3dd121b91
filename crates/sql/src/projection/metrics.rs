//! The metrics of a projection, on the page of its broker handle.

use leveret::Broker;
use prometheus::{IntCounter, IntGauge, Opts, core::Collector};

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) leading: IntGauge,
    pub(super) failing: IntGauge,
    pub(super) position: IntGauge,
    pub(super) lag: IntGauge,
    pub(super) applied: IntCounter,
    pub(super) repeated: IntCounter,
    pub(super) skipped: IntCounter,
    pub(super) failures: IntCounter,
}

impl Metrics {
    /// Registers the metrics of one projection. A projection that starts again takes the place of its former run.
    pub(super) fn new(projection: &str, broker: &Broker) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("projection", projection);
        let gauge = |name: &str, help: &str| IntGauge::with_opts(opts(name, help));
        let events = |outcome: &str| {
            let events = opts("projection_events_total", "Events of the log that a projection handled, by outcome");
            IntCounter::with_opts(events.const_label("outcome", outcome))
        };
        let metrics = Self {
            leading: gauge("projection_leading", "1 if this process applies the events of the projection")?,
            failing: gauge("projection_failing", "1 while the projection stands still because of an error")?,
            position: gauge("projection_position", "Offset of the last event that the projection read from the log")?,
            lag: gauge("projection_lag", "Offsets between the projection's position and the end of the log")?,
            applied: events("applied")?,
            repeated: events("repeated")?,
            skipped: events("skipped")?,
            failures: IntCounter::with_opts(opts("projection_failures_total", "Failed attempts of a projection"))?,
        };
        for (new, same) in metrics.collectors().into_iter().zip(metrics.collectors()) {
            // Removes the metric of a former run, which has the same name and labels. At the first start there is none.
            broker.registry().unregister(same).unwrap_or(());
            broker.registry().register(new)?;
        }
        Ok(metrics)
    }

    fn collectors(&self) -> [Box<dyn Collector>; 8] {
        [
            Box::new(self.leading.clone()),
            Box::new(self.failing.clone()),
            Box::new(self.position.clone()),
            Box::new(self.lag.clone()),
            Box::new(self.applied.clone()),
            Box::new(self.repeated.clone()),
            Box::new(self.skipped.clone()),
            Box::new(self.failures.clone()),
        ]
    }

    /// Shows that another process has the projection.
    pub(super) fn follow(&self) {
        for gauge in [&self.leading, &self.failing, &self.position, &self.lag] {
            gauge.set(0);
        }
    }

    /// Sets the position, and lowers the lag by the same number of offsets.
    pub(super) fn at(&self, offset: u64) {
        let (new, old) = (whole(offset), self.position.get());
        self.position.set(new);
        self.lag.set(self.lag.get().saturating_sub(new.saturating_sub(old)).max(0));
    }

    pub(super) fn ends_at(&self, newest: Option<u64>) {
        let newest = newest.map_or(self.position.get(), whole);
        self.lag.set(newest.saturating_sub(self.position.get()).max(0));
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
