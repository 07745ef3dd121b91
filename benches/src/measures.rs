//! Measured values: a sample for each run, a row for each contestant, a table for each scenario.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::figures::Spread;

/// The measures, in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    JobsPerSecond,
    EventsPerSecond,
    CopiesPerSecond,
    RequestsPerSecond,
    WorkerCpuUs,
    BrokerCpuUs,
    PeakRssMb,
    LatencyP50Us,
    LatencyP99Us,
    IdealPercent,
    StartMs,
    CpuPercent,
    InstructionsPerJob,
    WaitMeanMs,
    WaitP95Ms,
    AllDoneMs,
}

impl Measure {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::JobsPerSecond => "jobs/s",
            Self::EventsPerSecond => "events/s",
            Self::CopiesPerSecond => "copies/s",
            Self::RequestsPerSecond => "requests/s",
            Self::WorkerCpuUs => "CPU µs/job",
            Self::BrokerCpuUs => "broker µs/job",
            Self::PeakRssMb => "peak RSS MB",
            Self::LatencyP50Us => "p50 µs",
            Self::LatencyP99Us => "p99 µs",
            Self::IdealPercent => "% of ideal",
            Self::StartMs => "start ms",
            Self::CpuPercent => "% of a core",
            Self::InstructionsPerJob => "instructions/job",
            Self::WaitMeanMs => "mean wait ms",
            Self::WaitP95Ms => "p95 wait ms",
            Self::AllDoneMs => "all done ms",
        }
    }
}

/// The measurements of one run of one contestant.
pub(crate) type Sample = BTreeMap<Measure, f64>;

/// The samples of one contestant in a scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) contestant: &'static str,
    /// One sample for each round. The same index in two rows is the same round.
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    pub(crate) fn spread(&self, measure: Measure) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| sample.get(&measure)).copied())
    }

    /// This row's value divided by the other's, round by round.
    pub(crate) fn ratio(&self, other: &Self, measure: Measure) -> Option<Spread> {
        let rounds = self.samples.iter().zip(&other.samples);
        Spread::of(rounds.filter_map(|(own, other)| Some(own.get(&measure)? / other.get(&measure)?)))
    }
}

/// The rows of one scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) scenario: String,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    pub(crate) fn row(&self, contestant: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.contestant == contestant)
    }
}
