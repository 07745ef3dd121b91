//! What the harness promises the tests that stand on it.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod foreign;
mod node;
mod process;
mod proxy;
