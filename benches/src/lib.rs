//! How fast Leveret is, next to consumers written by hand in the same run.
//!
//! In the order of a run: a `broker` is started or taken as it is; each of the `scenarios` lets its contestants work
//! in turn, each as a `child` process with an `assignment`: the framework (`worker`) or a consumer or publisher
//! written by hand (`baseline`), both counting their jobs with a `meter`; what they took becomes a
//! `report`, which is held against the `targets`. `modelling` holds the model of `leveret simulate`
//! against real workers. `stub` is a broker that does nothing but deliver.

mod assignment;
mod baseline;
mod bench;
mod broker;
mod child;
mod contest;
mod figures;
mod instructions;
mod machine;
mod meter;
mod modelling;
mod publishing;
mod report;
mod scenarios;
pub mod stub;
mod targets;
mod worker;

pub use bench::{Arguments, Output, run};
pub use report::Report;
