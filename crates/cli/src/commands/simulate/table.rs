//! The result of a simulation as a table and sentences.

use super::{
    arguments::Arguments,
    search::{SearchResult, WorkersRow},
};
use crate::output::table;

pub(super) fn text(found: &SearchResult, arguments: &Arguments) -> String {
    let rows: Vec<_> = found.rows.iter().map(|row| cells(row, found.fewest)).collect();
    let heads =
        ["WORKERS", "BUSY", "QUEUE BUSY", "WAIT P50", "P95", "P99", "LONGEST", "LONGEST QUEUE", "RETRIED", "DEAD"];
    let sentences: Vec<_> = sentences(found, arguments).into_iter().map(|sentence| format!("{sentence}\n")).collect();
    let between = if sentences.is_empty() { "" } else { "\n" };
    format!("{}{between}{}", table(heads, &rows), sentences.concat())
}

fn sentences(found: &SearchResult, arguments: &Arguments) -> Vec<String> {
    let mut sentences = Vec::new();
    let target = seconds(found.target_wait_seconds);
    match found.fewest {
        Some(1) => sentences.push(format!("1 worker is enough: 95 of 100 attempts start within {target}.")),
        Some(fewest) => {
            sentences.push(format!("{fewest} workers are enough: 95 of 100 attempts start within {target}."));
        }
        None if arguments.is_search() => {
            sentences.push(format!("No number of workers is enough to start 95 of 100 attempts within {target}."));
        }
        None => {}
    }
    for row in &found.rows {
        let workers = if row.workers == 1 { "1 worker" } else { &format!("{} workers", row.workers) };
        if row.overloaded {
            let of_workers = found.attempts_per_second_of_a_worker * f64::from(row.workers);
            let can = of_workers.min(found.attempts_per_second_of_the_queue);
            let come = found.attempts_per_second;
            let never = if row.workers == 1 { "never catches" } else { "never catch" };
            sentences.push(format!(
                "{workers} {never} up: {come:.1} attempts come a second, of which {can:.1} can be done."
            ));
        } else if let (true, Some(caught_up)) = (arguments.has_rush(), row.caught_up) {
            sentences.push(format!("{workers}: the longest queue is gone {} after the start.", seconds(caught_up)));
        }
    }
    if found.queues > 1 {
        let queues = found.queues;
        sentences.push(format!("One queue's leader would be too busy: spread the jobs over {queues} queues."));
    }
    sentences
}

fn cells(row: &WorkersRow, fewest: Option<u32>) -> [String; 10] {
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
