//! The figures for people.

use std::fmt::Write;

use super::{Row, search::Found};
use crate::output::table;

pub(super) fn shown(found: &Found) -> String {
    let rows: Vec<_> = found.rows.iter().map(|row| cells(row, found.fewest)).collect();
    let heads =
        ["WORKERS", "BUSY", "QUEUE BUSY", "WAIT P50", "P95", "P99", "LONGEST", "LONGEST QUEUE", "RETRIED", "DEAD"];
    let mut text = table(heads, &rows);
    let target = seconds(found.target_wait_seconds);
    // Writing to a string does not fail.
    if let Some(fewest) = found.fewest {
        let workers = if fewest == 1 { "worker is" } else { "workers are" };
        _ = writeln!(text, "\n{fewest} {workers} enough: 95 of 100 attempts start within {target}.");
    }
    for row in found.rows.iter().filter(|row| row.overloaded) {
        let of_workers = found.attempts_per_second_of_a_worker * f64::from(row.workers);
        let can = of_workers.min(found.attempts_per_second_of_the_queue);
        let (workers, come) = (row.workers, found.attempts_per_second);
        let they = if workers == 1 { "1 worker never catches" } else { &format!("{workers} workers never catch") };
        _ = writeln!(text, "{they} up: {come:.1} attempts come a second, of which {can:.1} can be done.");
    }
    if found.queues > 1 {
        let queues = found.queues;
        _ = writeln!(text, "One queue's leader would be too busy: spread the jobs over {queues} queues.");
    }
    text
}

fn cells(row: &Row, fewest: Option<u32>) -> [String; 10] {
    let mark = if fewest == Some(row.workers) { " <" } else { "" };
    let mean = (f64::from(row.workers) - row.mean_workers).abs() > 0.05;
    let workers =
        if mean { format!("{} (mean {:.1})", row.workers, row.mean_workers) } else { row.workers.to_string() };
    let percent = |share: f64| format!("{:.0}%", share * 100.0);
    [
        format!("{workers}{mark}"),
        percent(row.busy),
        percent(row.leader_busy),
        seconds(row.wait_p50),
        seconds(row.wait_p95),
        seconds(row.wait_p99),
        seconds(row.longest_wait),
        row.longest_queue.to_string(),
        row.retried.to_string(),
        row.dead.to_string(),
    ]
}

fn seconds(seconds: f64) -> String {
    match seconds {
        less if less < 0.0995 => format!("{:.0} ms", less * 1_000.0),
        less if less < 99.95 => format!("{less:.1} s"),
        less if less < 5_970.0 => format!("{:.0} min", less / 60.0),
        more => format!("{:.1} h", more / 3_600.0),
    }
}
