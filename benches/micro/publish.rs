//! From a job to a message and its route, for the first attempt and for the next.

use std::time::Duration;

use divan::{Bencher, black_box};
use leveret::{
    Job, RetryPolicy,
    internals::{Message, Routes},
    topology::Topology,
};

use crate::samples::{REASON, SendEmail, TEXT_BYTES, job, publisher, received, retried};

#[divan::bench(args = TEXT_BYTES)]
fn message(bencher: Bencher<'_, '_>, text_bytes: usize) {
    let (publisher, job) = (publisher(), job(text_bytes));
    bencher.bench(|| Message::of(publisher.publish(black_box(&job))).unwrap());
}

#[divan::bench]
fn message_with_options(bencher: Bencher<'_, '_>) {
    let (publisher, job) = (publisher(), job(TEXT_BYTES[0]));
    bencher.bench(|| {
        let publish = publisher.publish(black_box(&job)).delay(Duration::from_secs(90)).priority(5);
        Message::of(publish.header("tenant", "acme").header("trial", true)).unwrap()
    });
}

/// A power of two of the ladder's unit, one that is not, and a month.
#[divan::bench(args = [3_200, 90_000, 2_592_000_000])]
fn route_of_delay_ms(bencher: Bencher<'_, '_>, ms: u64) {
    let routes = Routes::new(&Topology::new("leveret.v1"));
    bencher.bench(|| black_box(&routes).to(SendEmail::QUEUE, black_box(Duration::from_millis(ms))));
}

#[divan::bench]
fn route_without_delay(bencher: Bencher<'_, '_>) {
    let routes = Routes::new(&Topology::new("leveret.v1"));
    bencher.bench(|| black_box(&routes).to(SendEmail::QUEUE, Duration::ZERO));
}

#[divan::bench(args = [1, 5])]
fn copy_for_retry_of_attempt(bencher: Bencher<'_, '_>, attempt: u32) {
    let received = received(attempt);
    bencher.bench(|| retried(black_box(&received)));
}

#[divan::bench]
fn verdict_of_success(bencher: Bencher<'_, '_>) {
    let policy = RetryPolicy::default();
    bencher.bench(|| leveret::internals::verdict(black_box(Ok(())), 1, black_box(&policy)));
}

#[divan::bench]
fn verdict_of_failure(bencher: Bencher<'_, '_>) {
    let policy = RetryPolicy::default();
    let failed = || Err(std::io::Error::other(REASON).into());
    bencher.with_inputs(failed).bench_values(|result| leveret::internals::verdict(result, 3, black_box(&policy)));
}
