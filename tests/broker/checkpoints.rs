//! Long jobs go on where they stopped.

use std::collections::BTreeMap;

use leveret_tests::jobs::{Act, script};

use crate::support::{LONG, Line, Place, RunFile};

/// Counts the runs of each number.
fn counted(lines: &[Line]) -> BTreeMap<u32, usize> {
    let numbers = lines.iter().filter_map(|line| line.label.strip_prefix("count.")?.parse().ok());
    numbers.fold(BTreeMap::new(), |mut counts, number| {
        *counts.entry(number).or_default() += 1;
        counts
    })
}

/// Counts in one process until `end` ends it, and then in another.
async fn is_counted_in_two_processes(name: &str, (to, yields): (u32, bool), end: fn(&leveret_harness::Process)) {
    let (place, file) = (Place::shared(name).await, RunFile::new());
    let first = place.process(&file, &["--drain-timeout", "200ms"]);
    place.declared().await;
    place.publish(&script("count", [Act::Count { to, yields }])).await;
    file.until("some numbers are counted", |lines| counted(lines).len() >= 10).await;
    end(&first);
    first.wait_exit(LONG).await;
    let before = counted(&file.lines()).len();
    assert!(before < to as usize, "it ended in the middle");
    let _second = place.process(&file, &[]);
    file.until("the other process has counted the rest", |lines| counted(lines).len() == to as usize).await;
    let lines = file.lines();
    let again: Vec<_> = counted(&lines).into_iter().filter(|(_, times)| *times > 1).collect();
    // A kill between the confirm of a copy and the ack of its message leaves both, which count on from there.
    let is_allowed = |number: u32| if yields { number as usize + 2 >= before } else { again.len() <= 1 };
    assert!(again.iter().all(|(number, times)| *times == 2 && is_allowed(*number)), "{before}, then again: {again:?}");
    assert!(lines.iter().all(|line| line.label != "count" || line.attempt == 1), "no attempt is charged");
}

#[tokio::test]
async fn a_job_that_a_stop_interrupts_goes_on_at_its_checkpoint_in_another_process() {
    is_counted_in_two_processes("checkpoint-term", (300, false), leveret_harness::Process::sigterm).await;
}

#[tokio::test]
async fn a_job_that_yields_loses_no_more_than_its_last_step_to_a_kill() {
    is_counted_in_two_processes("checkpoint-kill", (40, true), leveret_harness::Process::sigkill).await;
}
