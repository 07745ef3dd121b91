//! Time and allocations of each step that the framework takes for a job, without the broker.
//!
//! `cargo bench -p leveret-bench --bench micro [-- FILTER]`

#![expect(clippy::unwrap_used, reason = "a step whose value cannot be made has nothing to measure")]

mod consume;
mod publish;
mod samples;

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}
