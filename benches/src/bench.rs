//! The context of all scenarios: the broker, the number of rounds and the selection of tables.

use std::path::PathBuf;

use anyhow::Result;

use crate::broker::Broker;

/// One run of the benchmark.
pub(crate) struct Bench {
    pub(crate) broker: Option<Broker>,
    pub(crate) repetitions: usize,
    /// Only tables whose title contains this text.
    pub(crate) only: String,
    pub(crate) quick: bool,
    /// The worker of `benches/user`, built with cargo's default profile.
    pub(crate) user_build: Option<PathBuf>,
    /// The folder for callgrind's profiles.
    pub(crate) profiles: Option<PathBuf>,
    pub(crate) progress: Box<dyn Fn(&str)>,
}

impl Bench {
    pub(crate) fn broker(&self) -> Result<&Broker> {
        self.broker.as_ref().ok_or_else(|| anyhow::anyhow!("this scenario needs a broker"))
    }

    /// The number of jobs, a tenth of it with `--quick`.
    pub(crate) fn jobs(&self, jobs: u64) -> u64 {
        if self.quick { jobs / 10 } else { jobs }
    }

    /// True if `--only` selects the table of this title.
    pub(crate) fn selects(&self, scenario: &str) -> bool {
        scenario.contains(&self.only)
    }

    /// Reports progress.
    pub(crate) fn show(&self, what: &str) {
        (self.progress)(what);
    }
}
