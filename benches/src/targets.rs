//! The targets of Leveret, as ratios within a run, and their verdicts.

use std::fmt;

use serde::Serialize;

use crate::{
    contest::{ALL_FAIL, AWAITED, COALESCED, LEVERET, LEVERET_TASKS},
    emitting, inserting,
    instructions::{INSTRUCTIONS, USER_BUILD},
    measures::{
        Measure::{
            self, BrokerCpuUs, CpuPercent, EventsPerSecond, IdealPercent, InstructionsPerJob, JobsPerSecond,
            LatencyP50Us, LatencyP99Us, PeakRssMb, StartMs, WaitMeanMs, WaitP95Ms, WorkerCpuUs,
        },
        Table,
    },
    modelling::{self, MEASURED, SIMULATED},
    publishing, requesting,
    scenarios::{NONE_FAIL, SOME_FAIL, STUB},
};

const QUORUM_100: &str = "drain: quorum queue, prefetch 100";
const PUBLISH: &str = "publish: 200 B, confirmed, quorum queue";
const LATENCY: &str = "latency: 500 jobs a second on a quorum queue";

use Bound::{AtLeast, AtMost};

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A target.
#[derive(Clone, Copy, Debug)]
struct Target {
    scenario: &'static str,
    contestant: &'static str,
    measure: Measure,
    /// The contestant by whose value this one is divided.
    baseline: Option<&'static str>,
    bound: Bound,
    /// The tolerance before a miss is a regression. `None` for targets that depend on a broker.
    margin: Option<f64>,
}

const fn ratio(
    scenario: &'static str,
    contestant: &'static str,
    measure: Measure,
    baseline: &'static str,
    bound: Bound,
) -> Target {
    Target { scenario, contestant, measure, baseline: Some(baseline), bound, margin: None }
}

const fn figure(scenario: &'static str, contestant: &'static str, measure: Measure, bound: Bound) -> Target {
    Target { scenario, contestant, measure, baseline: None, bound, margin: None }
}

impl Target {
    const fn gates(self, margin: f64) -> Self {
        Self { margin: Some(margin), ..self }
    }
}

const TARGETS: &[Target] = &[
    // 2.1 on RabbitMQ 4.0, whose queues cost more CPU time.
    ratio(QUORUM_100, LEVERET, JobsPerSecond, AWAITED, AtLeast(2.5)),
    ratio(QUORUM_100, LEVERET, JobsPerSecond, COALESCED, AtLeast(0.95)),
    ratio(QUORUM_100, LEVERET_TASKS, JobsPerSecond, COALESCED, AtLeast(0.8)),
    ratio(QUORUM_100, LEVERET, BrokerCpuUs, AWAITED, AtMost(0.6)),
    figure(QUORUM_100, LEVERET, WorkerCpuUs, AtMost(10.0)),
    figure(QUORUM_100, LEVERET, PeakRssMb, AtMost(16.0)),
    ratio(STUB, LEVERET, JobsPerSecond, AWAITED, AtLeast(12.0)).gates(0.4),
    ratio(STUB, LEVERET, WorkerCpuUs, COALESCED, AtMost(1.1)).gates(0.15),
    ratio(INSTRUCTIONS, LEVERET, InstructionsPerJob, COALESCED, AtMost(1.1)).gates(0.12),
    ratio(INSTRUCTIONS, USER_BUILD, InstructionsPerJob, LEVERET, AtMost(1.1)).gates(0.1),
    ratio(PUBLISH, publishing::PIPELINED, JobsPerSecond, publishing::ONE_BY_ONE, AtLeast(12.0)),
    ratio(PUBLISH, publishing::PIPELINED, JobsPerSecond, publishing::HAND_WRITTEN, AtLeast(0.95)),
    ratio(emitting::TO_1, emitting::PIPELINED, EventsPerSecond, emitting::HAND_WRITTEN, AtLeast(0.95)),
    ratio(emitting::TO_10, emitting::PIPELINED, EventsPerSecond, emitting::HAND_WRITTEN, AtLeast(0.95)),
    ratio(emitting::TO_100, emitting::PIPELINED, EventsPerSecond, emitting::HAND_WRITTEN, AtLeast(0.95)),
    ratio(emitting::DRAINED, emitting::SUBSCRIPTION, JobsPerSecond, LEVERET, AtLeast(0.95)),
    ratio(requesting::ONE_AT_A_TIME, LEVERET, LatencyP50Us, requesting::HAND_WRITTEN, AtMost(1.15)),
    ratio(requesting::ONE_AT_A_TIME, LEVERET, LatencyP99Us, requesting::HAND_WRITTEN, AtMost(1.15)),
    ratio(inserting::SCENARIO, inserting::IN_BATCHES, JobsPerSecond, inserting::ONE_BY_ONE, AtLeast(5.0)),
    ratio(LATENCY, LEVERET, LatencyP50Us, AWAITED, AtMost(1.05)),
    ratio(LATENCY, LEVERET, LatencyP99Us, AWAITED, AtMost(1.2)),
    figure("waiting: 1,000 at once, 100 ms each", LEVERET, IdealPercent, AtLeast(97.0)),
    figure("waiting: 1,000 at once, 100 ms each", LEVERET, PeakRssMb, AtMost(25.0)),
    figure("waiting: 10,000 at once, 1 s each, in 5 queues", LEVERET, IdealPercent, AtLeast(90.0)),
    figure("retries: 4,000 jobs that always fail, prefetch 100", ALL_FAIL, JobsPerSecond, AtLeast(8_000.0)),
    ratio("retries: 100 ms later, prefetch 100", SOME_FAIL, JobsPerSecond, NONE_FAIL, AtLeast(0.4)),
    figure("start: to the first job, the queue is there", LEVERET, StartMs, AtMost(300.0)),
    figure("idle: 10 s after a first job", LEVERET, CpuPercent, AtMost(0.1)),
    // The model is accurate to 15 %.
    ratio(modelling::STEADY, SIMULATED, WaitMeanMs, MEASURED, AtLeast(0.85)),
    ratio(modelling::STEADY, SIMULATED, WaitMeanMs, MEASURED, AtMost(1.15)),
    ratio(modelling::STEADY, SIMULATED, WaitP95Ms, MEASURED, AtLeast(0.85)),
    ratio(modelling::STEADY, SIMULATED, WaitP95Ms, MEASURED, AtMost(1.15)),
    ratio(modelling::BACKLOG, SIMULATED, WaitMeanMs, MEASURED, AtLeast(0.85)),
    ratio(modelling::BACKLOG, SIMULATED, WaitMeanMs, MEASURED, AtMost(1.15)),
    ratio(modelling::BACKLOG, SIMULATED, WaitP95Ms, MEASURED, AtLeast(0.85)),
    ratio(modelling::BACKLOG, SIMULATED, WaitP95Ms, MEASURED, AtMost(1.15)),
    ratio(modelling::FAILURES, SIMULATED, WaitMeanMs, MEASURED, AtLeast(0.85)),
    ratio(modelling::FAILURES, SIMULATED, WaitMeanMs, MEASURED, AtMost(1.15)),
    ratio(modelling::FAILURES, SIMULATED, WaitP95Ms, MEASURED, AtLeast(0.85)),
    ratio(modelling::FAILURES, SIMULATED, WaitP95Ms, MEASURED, AtMost(1.15)),
];

/// The result of a run for one target.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    what: String,
    bound: String,
    value: f64,
    met: bool,
    regression: bool,
}

impl Verdict {
    pub(crate) fn is_regression(&self) -> bool {
        self.regression
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, bound, value, met, regression } = self;
        let verdict = if *regression { "REGRESSION" } else { ["missed", "met"][usize::from(*met)] };
        write!(f, "{verdict:<10} {value:>8.2}  {bound:<9} {what}")
    }
}

/// The verdicts on all targets that these tables cover.
pub(crate) fn judge(tables: &[Table]) -> Vec<Verdict> {
    TARGETS.iter().filter_map(|target| target.verdict(tables)).collect()
}

impl Target {
    fn verdict(&self, tables: &[Table]) -> Option<Verdict> {
        let table = tables.iter().find(|table| table.scenario == self.scenario)?;
        let row = table.row(self.contestant)?;
        let spread = match self.baseline {
            Some(baseline) => row.ratio(table.row(baseline)?, self.measure),
            None => row.spread(self.measure),
        };
        let value = spread?.median;
        let (met, bound, beyond) = match self.bound {
            AtLeast(bound) => (value >= bound, format!("≥ {bound}"), (bound - value) / bound),
            AtMost(bound) => (value <= bound, format!("≤ {bound}"), (value - bound) / bound),
        };
        let title = self.measure.title();
        let against = self.baseline.map_or_else(String::new, |baseline| format!(" / {baseline}"));
        let what = format!("{}: {title}, {}{against}", self.scenario, self.contestant);
        Some(Verdict { what, bound, value, met, regression: self.margin.is_some_and(|margin| beyond > margin) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::{Row, Sample};

    fn table(own: f64, other: f64) -> Table {
        let row = |contestant, value| Row { contestant, samples: vec![Sample::from([(WorkerCpuUs, value)])] };
        Table { scenario: STUB.to_owned(), rows: vec![row(LEVERET, own), row(COALESCED, other)] }
    }

    #[test]
    fn a_target_is_met_or_missed_and_a_regression_only_beyond_its_margin() {
        let verdict = |own, other| {
            let verdicts = judge(&[table(own, other)]);
            assert_eq!(verdicts.len(), 1);
            (verdicts[0].met, verdicts[0].regression)
        };
        assert_eq!(verdict(5.5, 5.0), (true, false));
        assert_eq!(verdict(5.6, 5.0), (false, false));
        assert_eq!(verdict(6.5, 5.0), (false, true));
    }
}
