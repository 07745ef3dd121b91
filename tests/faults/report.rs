//! The output of the suite: a line for each scenario, and the sum.

use std::{collections::BTreeMap, io::Write, path::Path, time::Duration};

use leveret_tests::audit::{Cause, Verdict};
use serde_json::json;

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) seed: u64,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Passed(Figures),
    /// With the figures until the failure.
    Failed {
        error: String,
        figures: Figures,
    },
}

/// The figures of one scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) verdict: Verdict,
    pub(crate) faults: usize,
    /// From "a new client could work, and the loss could be known" to "every worker runs a job published since".
    pub(crate) recoveries: Vec<Duration>,
    /// Jobs that were lost with a queue that an operator deleted.
    pub(crate) deleted: usize,
    pub(crate) acks_lost: u64,
    /// Jobs that were moved to the suspect queue.
    pub(crate) suspects: usize,
    pub(crate) largest_rss_kib: u64,
    pub(crate) took: Duration,
}

impl Figures {
    pub(crate) fn line(&self) -> String {
        let dead: usize = self.verdict.dead.values().sum();
        let mut line = format!(
            "{} jobs, {} faults, {} lost, {} twice, {dead} dead",
            self.verdict.published,
            self.faults,
            self.verdict.lost.len(),
            self.verdict.duplicates.values().sum::<usize>(),
        );
        if self.deleted > 0 {
            line += &format!(", {} lost with their queue", self.deleted);
        }
        if let Some(worst) = self.recoveries.iter().max() {
            line += &format!(", recovered in {} ms at most", worst.as_millis());
        }
        line + &format!(" ({} s, {} MiB)", self.took.as_secs(), self.largest_rss_kib / 1024)
    }
}

/// Prints the sum and the verdict in the words of Rust's test runner; returns how many failed.
pub(crate) fn print_summary(reports: &[Report]) -> usize {
    let figures = || {
        reports.iter().map(|report| match &report.outcome {
            Outcome::Passed(figures) | Outcome::Failed { figures, .. } => figures,
        })
    };
    let sum = |count: fn(&Figures) -> usize| figures().map(count).sum::<usize>();
    let mut duplicates: BTreeMap<Cause, usize> = BTreeMap::new();
    for (cause, count) in figures().flat_map(|figures| &figures.verdict.duplicates) {
        *duplicates.entry(*cause).or_default() += count;
    }
    let mut recoveries: Vec<_> = figures().flat_map(|figures| &figures.recoveries).copied().collect();
    recoveries.sort_unstable();
    println!("\n{:>10} jobs confirmed", sum(|figures| figures.verdict.published));
    println!("{:>10} faults", sum(|figures| figures.faults));
    println!("{:>10} lost", sum(|figures| figures.verdict.lost.len()));
    println!("{:>10} dead letters", sum(|figures| figures.verdict.dead.values().sum()));
    println!("{:>10} went with a queue that was deleted", sum(|figures| figures.deleted));
    for (cause, count) in &duplicates {
        println!("{count:>10} done twice: {cause}");
    }
    if let (Some(median), Some(worst)) = (recoveries.get(recoveries.len() / 2), recoveries.last()) {
        let (median, worst) = (median.as_millis(), worst.as_millis());
        println!("{:>10} recoveries: p50 {median} ms, max {worst} ms", recoveries.len());
    }
    let failures: Vec<_> = reports
        .iter()
        .filter(|report| matches!(report.outcome, Outcome::Failed { .. }))
        .map(|report| report.scenario)
        .collect();
    let (failed, word) = (failures.len(), if failures.is_empty() { "ok" } else { "FAILED" });
    if failed > 0 {
        println!("\nfailures: {}", failures.join(", "));
    }
    println!("\ntest result: {word}. {} passed; {failed} failed; 0 ignored", reports.len() - failed);
    failed
}

/// Writes a line of JSON for each scenario.
pub(crate) fn write(path: &Path, reports: &[Report]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    for Report { scenario, seed, outcome } in reports {
        let line = match outcome {
            Outcome::Failed { error, .. } => json!({"scenario": scenario, "seed": seed, "failed": error}),
            Outcome::Passed(figures) => json!({
                "scenario": scenario,
                "seed": seed,
                "jobs": figures.verdict.published,
                "faults": figures.faults,
                "lost": figures.verdict.lost.len(),
                "dead": figures.verdict.dead,
                "deleted": figures.deleted,
                "duplicates": figures.verdict.duplicates.iter().map(|(cause, count)| (cause.to_string(), count)).collect::<BTreeMap<_, _>>(),
                "recoveries_ms": figures.recoveries.iter().map(Duration::as_millis).collect::<Vec<_>>(),
                "acks_lost": figures.acks_lost,
                "largest_rss_kib": figures.largest_rss_kib,
                "seconds": figures.took.as_secs_f64(),
            }),
        };
        writeln!(file, "{line}")?;
    }
    Ok(())
}
