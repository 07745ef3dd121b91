//! Benchmarks of Leveret and of consumers written by hand, in the same run.
//!
//! The library of the program `leveret-bench`. In the order of a run: the `command` starts a `broker` or connects to one.
//! Each of the `scenarios` runs its contestants in turn (`contest`), each as a `child` process with an `assignment`: the
//! framework (`worker`) or a consumer or publisher written by hand (`baseline`). Both count their jobs with a `meter`.
//! The `measures` are compared with the `targets` and printed as a `report`. `modelling` compares the model of
//! `leveret simulate` with real workers. [`stub`] is a broker that does nothing but deliver.

mod assignment;
mod baseline;
mod bench;
mod broker;
mod child;
mod command;
mod contest;
mod emitting;
mod figures;
mod inserting;
mod instructions;
mod machine;
mod measures;
mod meter;
mod modelling;
mod publishing;
mod report;
mod requesting;
mod scenarios;
pub mod stub;
mod targets;
mod worker;

pub use command::{Arguments, Output, run};
pub use report::Report;
