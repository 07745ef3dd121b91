//! Instructions per job, which do not depend on how busy the machine is: counted by valgrind's callgrind on the stub.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{
    assignment::{Assignment, Consume, Consumer, Work},
    bench::Bench,
    child::Child,
    contest::{COALESCED, Drain, LEVERET, LEVERET_LOGGING, LEVERET_TASKS},
    report::{Measure, Row, Sample, Table},
    scenarios::feed,
    stub::Stub,
};

/// Two lengths of a run: their difference has neither start nor end in it.
const SHORT: u64 = 10_000;
const LONG: u64 = 30_000;

/// The title of the table.
pub(crate) const INSTRUCTIONS: &str = "instructions: a broker that only delivers, prefetch 100";

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Table>> {
    let contestants = [
        (LEVERET, Consumer::Leveret, Work::Nothing),
        (LEVERET_TASKS, Consumer::Leveret, Work::Yield),
        (LEVERET_LOGGING, Consumer::LeveretLogging, Work::Nothing),
        (COALESCED, Consumer::Coalesced, Work::Nothing),
    ];
    let mut rows = Vec::new();
    for (contestant, consumer, work) in contestants {
        let mut counted = Vec::new();
        for jobs in [SHORT, LONG] {
            bench.show(&format!("{INSTRUCTIONS}: {contestant}, {jobs} jobs"));
            let profile = bench.profiles.as_ref().map(|folder| folder.join(format!("{contestant}, {jobs} jobs")));
            let profile = profile.unwrap_or_else(|| "/dev/null".into());
            counted.push(count(jobs, consumer, work, &profile).await? as f64);
        }
        let each = (counted[1] - counted[0]) / (LONG - SHORT) as f64;
        rows.push(Row { contestant, samples: vec![Sample::from([(Measure::InstructionsPerJob, each)])] });
    }
    Ok(vec![Table { scenario: INSTRUCTIONS.to_owned(), rows }])
}

async fn count(jobs: u64, consumer: Consumer, work: Work, profile: &Path) -> Result<u64> {
    let drain = Drain { jobs, ..Drain::default() };
    let feed = feed(&drain)?;
    let queues = [feed.queue.clone()];
    let stub = Stub::start(feed)?;
    // Valgrind makes every handler slow.
    let inline_budget = Some(Duration::from_secs(1));
    let consume = Consume { inline_budget, ..drain.consume(&stub.url(), &queues, consumer, work) };
    let profile = format!("--callgrind-out-file={}", profile.display());
    let valgrind = ["valgrind", "--tool=callgrind", &profile];
    let mut child = Child::start(&Assignment::Consume(consume), &valgrind).context("valgrind is needed")?;
    let said = child.end().await?;
    stub.finish()?;
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).context("valgrind said no number")?;
    Ok(collected.1.trim().parse()?)
}
