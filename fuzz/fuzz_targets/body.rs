//! Any bytes as the payload of a job: the job runs or is dead-lettered.
#![no_main]

use std::{cell::RefCell, collections::BTreeMap};

use leveret::{Context, Job, JobResult, Outcome, Worker, testing::perform_raw};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Anything {
    text: String,
    number: Option<i64>,
    nested: Vec<BTreeMap<String, Anything>>,
}

impl Job for Anything {
    const NAME: &'static str = "anything";
    const QUEUE: &'static str = "fuzz";
}

async fn take(_job: Anything, _ctx: Context<()>) -> JobResult {
    Ok(())
}

thread_local! {
    static RUNTIME: RefCell<tokio::runtime::Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let worker = Worker::new(()).handle(take);
    let attempt = perform_raw(worker, "fuzz", "anything", bytes, 1);
    let outcome = RUNTIME.with_borrow(|runtime| runtime.block_on(attempt)).unwrap();
    assert!(matches!(outcome, Outcome::Done | Outcome::DeadLetter { .. }), "{outcome:?}");
});
