//! The broker's consumer timeout, met by a job that takes longer.
//!
//! Up to RabbitMQ 4.2 the channel is closed with a 406 at its next tick. From 4.3 on the queue requeues the job and
//! cancels the consumer. A worker must survive both.

use std::collections::BTreeSet;

use leveret_harness::{Node, NodeOptions, Process};
use leveret_tests::jobs::{Act, script};

use crate::support::{LONG, Line, Place, RunFile};

/// The long job exceeds this several times.
const TIMEOUT_MS: u64 = 1_500;
const LONG_JOB_MS: u64 = 6_000;

/// Starts a broker with a short timeout, and returns its reason for cancelling a consumer.
async fn impatient() -> (Node, &'static str) {
    let node = Node::start(NodeOptions::default().config(&format!("consumer_timeout = {TIMEOUT_MS}"))).await;
    // Not a key of rabbitmq.conf; a minute by default.
    node.eval("application:set_env(rabbit, channel_tick_interval, 500).").await.unwrap();
    let words = if node.version().await.unwrap() < (4, 3) { "PRECONDITION" } else { "cancelled the consumer" };
    (node, words)
}

async fn overrun(worker: &Process, words: &str) {
    let lost = worker.wait_line("lost the consumer", LONG).await;
    assert!(lost.contains(words), "{lost}");
}

/// Stops the workers, and checks that the broker has every job's ack: a job without one would be ready again.
async fn nothing_is_left(place: &Place, workers: &[Process]) {
    for worker in workers {
        worker.sigterm();
        assert!(worker.wait_exit(LONG).await.success());
    }
    let raw = place.raw().await;
    for lane in ["", ".suspect", ".dead"] {
        let queue = format!("{}{lane}", place.queue);
        assert_eq!(raw.depth(&queue).await.unwrap(), Some(0), "in {queue}");
    }
}

/// One worker, started with these arguments, meets the timeout.
async fn is_not_started_again(name: &str, arguments: &[&str]) {
    let (node, words) = impatient().await;
    let (place, file) = (Place::at(&node.url(), name), RunFile::new());
    let worker = place.process(&file, arguments);
    place.declared().await;
    place.publish(&script("long", [Act::WorkMs(LONG_JOB_MS)])).await;
    overrun(&worker, words).await;
    place.publish(&script("next", [Act::Succeed])).await;
    file.until("the next job is done", |lines| lines.iter().any(|line| line.ended && line.label == "next")).await;
    assert!(file.of("long").iter().all(|line| !line.ended), "the next job does not wait for the long one");
    worker.wait_line("redelivered while it runs here: not started again", LONG).await;
    file.until("the long job is done", |lines| lines.iter().any(|line| line.ended && line.label == "long")).await;
    nothing_is_left(&place, &[worker]).await;
    assert_eq!(file.of("long").len(), 2, "one start, one end");
}

#[tokio::test]
async fn a_job_that_outlasts_the_consumer_timeout_is_not_started_again_and_the_next_ones_are_done_meanwhile() {
    is_not_started_again("overrun", &[]).await;
}

/// RabbitMQ 4.3 keeps a timed-out consumer as the active one until its client cancels it, or closes its channel.
#[tokio::test]
async fn a_single_active_consumer_that_was_timed_out_is_the_active_one_again() {
    is_not_started_again("single", &["--single-active"]).await;
}

#[tokio::test]
async fn a_job_that_outlasts_the_consumer_timeout_of_competing_workers_runs_once_in_each_at_most() {
    let (node, words) = impatient().await;
    let (place, file) = (Place::at(&node.url(), "compete"), RunFile::new());
    let workers = [place.process(&file, &[]), place.process(&file, &[])];
    place.declared().await;
    place.publish(&script("long", [Act::WorkMs(LONG_JOB_MS)])).await;
    file.until("the long job runs", |lines| lines.iter().any(|line| line.label == "long")).await;
    let first = file.of("long")[0].process;
    let first = workers.iter().find(|worker| worker.id() == first).unwrap();
    overrun(first, words).await;
    for n in 0..20 {
        place.publish(&script(&format!("next-{n}"), [Act::WorkMs(50)])).await;
    }
    let nexts = |lines: &[Line]| lines.iter().filter(|line| line.ended && line.label.starts_with("next")).count();
    file.until("the next jobs are done", |lines| nexts(lines) == 20).await;
    let all_end = |lines: &[Line]| lines.iter().filter(|line| line.ended).count() * 2 == lines.len();
    file.until("every run has ended", all_end).await;
    nothing_is_left(&place, &workers).await;
    let long = file.of("long");
    let processes: BTreeSet<_> = long.iter().map(|line| line.process).collect();
    assert_eq!(long.len(), processes.len() * 2, "one start and one end in each: {long:?}");
}
