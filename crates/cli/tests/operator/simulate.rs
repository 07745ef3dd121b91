//! `leveret simulate`.

use std::process::Command;

use crate::post::{Said, say};

async fn simulate(arguments: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.arg("simulate").args(arguments.split(' '));
    say(command, Vec::new()).await
}

#[tokio::test]
async fn the_smallest_sufficient_number_of_workers_is_found_and_smaller_ones_are_reported() {
    let load = "--rate 100 --p50 100ms --concurrency 4 --for 5m --output json";
    let found = simulate(load).await.ends(0).json();
    // 100 jobs a second of 0.1 s each require ten slots at least, and a worker has four.
    assert_eq!(found["fewest"], 3, "{found}");
    assert!(found["rows"].as_array().unwrap().iter().any(|row| row["workers"] == 2 && row["overloaded"] == true));
    let table = simulate("--rate 100 --p50 100ms --concurrency 4 --for 1m --workers 2").await.ends(0).stdout;
    assert!(
        table.contains("2 workers never catch up: 100.0 attempts come a second, of which 80.0 can be done"),
        "{table}"
    );
}

#[tokio::test]
async fn a_load_above_the_capacity_of_a_queue_needs_more_queues() {
    let table = simulate("--rate 50000 --p50 10ms --for 10s").await.ends(1).stdout;
    assert!(table.contains("spread the jobs over 7 queues"), "{table}");
    simulate("--rate 1000000 --p50 10ms").await.ends(2);
    simulate("--rate 10/d --p50 10ms").await.ends(2);
}

#[tokio::test]
async fn the_end_of_a_backlog_is_reported_and_an_impossible_load_is_too() {
    let load = "--rate 20 --p50 100ms --concurrency 4 --for 5m --backlog 600 --workers 1";
    let found = simulate(&format!("{load} --output json")).await.ends(0).json();
    // 600 jobs at 40 a second, of which 20 are new ones, take half a minute.
    let caught_up = found["rows"][0]["caught_up"].as_f64().unwrap();
    assert!((25.0..35.0).contains(&caught_up), "{found}");
    let table = simulate(load).await.ends(0).stdout;
    assert!(
        table.contains(&format!("1 worker: the longest queue is gone {caught_up:.1} s after the start.")),
        "{table}"
    );
    let table = simulate("--rate 20 --p50 100ms --for 10s --backlog 100000 --target-wait 1ms").await.ends(1).stdout;
    assert!(table.contains("No number of workers is enough"), "{table}");
}

#[tokio::test]
async fn quantiles_that_cross_are_refused() {
    simulate("--rate 10 --p50 400ms --p95 80ms").await.ends(2);
    simulate("--rate 10 --p50 0s --p95 80ms").await.ends(2);
}
