//! What the framework does for each job apart from waiting for the broker: time and allocations of every step.
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
