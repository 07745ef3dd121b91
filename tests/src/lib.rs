//! Helpers of the tests: a job whose payload is its script, in this process or in one of its own (`jobs`), and the load of
//! the fault suite with its audit (`load`, `audit`, `workflows`).
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]
#![expect(missing_docs, clippy::missing_errors_doc, reason = "tests are read with their names")]

pub mod audit;
pub mod certificates;
pub mod fires;
pub mod jobs;
pub mod load;
pub mod workflows;

/// Compiles the Rust of the README, and runs what is not `no_run`.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
