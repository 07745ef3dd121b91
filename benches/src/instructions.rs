//! Instructions per job on the stub, counted by valgrind's callgrind. Unlike times they do not depend on other load.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{
    assignment::{Assignment, Consume, Consumer, Publish, Publisher, Work},
    bench::Bench,
    child::Child,
    contest::{ALL_FAIL, COALESCED, Drain, LEVERET, LEVERET_LOGGING, LEVERET_TASKS},
    measures::{Measure, Row, Sample, Table},
    publishing::{HAND_WRITTEN, PIPELINED},
    stub::Stub,
};

/// The lengths of two runs. Their difference excludes start and end.
const SHORT: u64 = 10_000;
const LONG: u64 = 30_000;

/// The titles of the tables.
pub(crate) const INSTRUCTIONS: &str = "instructions: a broker that only delivers, prefetch 100";
/// The same worker in a program of its own, built with cargo's default profile.
pub(crate) const USER_BUILD: &str = "leveret, a user's build";
const PUBLISHING: &str = "instructions: a broker that only confirms, 1,024 publishes in flight";

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Table>> {
    let drain = Drain::default();
    let queues = [drain.feed()?.queue];
    let consume = |consumer, work| {
        // Valgrind makes every handler slow.
        let inline_budget = Some(Duration::from_secs(1));
        Assignment::Consume(Consume { inline_budget, ..drain.consume("", &queues, consumer, work) })
    };
    let publish = |publisher| {
        let (url, queue) = (String::new(), queues[0].clone());
        Assignment::Publish(Publish { publisher, url, queue, jobs: 0, bytes: drain.bytes })
    };
    let consumers = [
        (LEVERET, consume(Consumer::Leveret, Work::Nothing)),
        (LEVERET_TASKS, consume(Consumer::Leveret, Work::Yield)),
        (LEVERET_LOGGING, consume(Consumer::LeveretLogging, Work::Nothing)),
        (ALL_FAIL, consume(Consumer::Leveret, Work::FailAlways)),
        (COALESCED, consume(Consumer::Coalesced, Work::Nothing)),
    ];
    let user = bench.user_build.as_ref().map(|_| (USER_BUILD, consume(Consumer::Leveret, Work::Nothing)));
    let consumers: Vec<_> = consumers.into_iter().chain(user).collect();
    let publishers =
        [(PIPELINED, publish(Publisher::LeveretPipelined)), (HAND_WRITTEN, publish(Publisher::LapinPipelined))];
    Ok(vec![table(bench, INSTRUCTIONS, &consumers).await?, table(bench, PUBLISHING, &publishers).await?])
}

async fn table(bench: &Bench, scenario: &str, contestants: &[(&'static str, Assignment)]) -> Result<Table> {
    let mut rows = Vec::new();
    for (contestant, assignment) in contestants.iter().filter(|_| bench.selects(scenario)) {
        let mut counted = Vec::new();
        for jobs in [SHORT, LONG] {
            bench.show(&format!("{scenario}: {contestant}, {jobs} jobs"));
            let profile = bench.profiles.as_ref().map(|folder| folder.join(format!("{contestant}, {jobs} jobs")));
            let profile = profile.unwrap_or_else(|| "/dev/null".into());
            let own = std::env::current_exe()?;
            let program = bench.user_build.as_ref().filter(|_| *contestant == USER_BUILD).unwrap_or(&own);
            counted.push(count(program, jobs, assignment, &profile).await? as f64);
        }
        let each = (counted[1] - counted[0]) / (LONG - SHORT) as f64;
        rows.push(Row { contestant, samples: vec![Sample::from([(Measure::InstructionsPerJob, each)])] });
    }
    Ok(Table { scenario: scenario.to_owned(), rows })
}

async fn count(program: &Path, jobs: u64, assignment: &Assignment, profile: &Path) -> Result<u64> {
    let stub = Stub::start(Drain { jobs, ..Drain::default() }.feed()?)?;
    let url = stub.url();
    let assignment = match assignment.clone() {
        Assignment::Consume(consume) => Assignment::Consume(Consume { url, jobs, ..consume }),
        Assignment::Publish(publish) => Assignment::Publish(Publish { url, jobs, ..publish }),
        other => other,
    };
    let profile = format!("--callgrind-out-file={}", profile.display());
    let valgrind = ["valgrind", "--tool=callgrind", &profile];
    let child = Child::start_program(program, &assignment, &valgrind);
    let mut child = child.context("starting valgrind, which this scenario requires")?;
    let output = child.end().await?;
    stub.finish()?;
    let collected = output
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .context("valgrind printed no number of instructions")?;
    Ok(collected.1.trim().parse()?)
}
