//! The settings of this worker, from flags or environment variables.

use std::{num::NonZeroU16, path::PathBuf, time::Duration};

use crate::generate::Reports;

/// The directories and limits of the worker.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_args(leveret::setting))]
pub struct ReportSettings {
    /// Directory of the data sets
    #[arg(long, env = "REPORTS_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,

    /// Directory of the reports; created if it is missing
    #[arg(long, env = "REPORTS_OUTPUT_DIR", default_value = "reports")]
    pub output_dir: PathBuf,

    /// Maximum groups of one report; limits its memory
    #[arg(long, env = "REPORTS_MAX_GROUPS", default_value_t = 100_000)]
    pub max_groups: usize,

    /// Reports written at the same time; each takes a core and up to 200 MB
    #[arg(long, env = "REPORTS_CONCURRENCY", default_value = "2")]
    pub concurrency: NonZeroU16,

    /// Time after which a report goes to the end of the queue and continues later; a kill loses at most this much work
    #[arg(long, env = "REPORTS_YIELD_EVERY", default_value = "30s", value_parser = leveret::duration)]
    pub yield_every: Duration,
}

impl From<&ReportSettings> for Reports {
    fn from(settings: &ReportSettings) -> Self {
        Self {
            data_dir: settings.data_dir.clone(),
            output_dir: settings.output_dir.clone(),
            max_groups: settings.max_groups,
            yield_every: settings.yield_every,
        }
    }
}
