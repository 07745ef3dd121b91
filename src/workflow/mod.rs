//! Workflows: chains, groups and joins of jobs, started by a publisher and run by the server.
//!
//! [`Workflow`] describes one. [`Publisher::start`](crate::Publisher::start) publishes it to the queue
//! `leveret.v1.workflows`. Workers publish the end of each step there ([`StepEnd`]) before they settle its job, so that no
//! end is lost. The server reads the queue, and [`engine`] decides what an end leads to.

mod builder;
mod check;
pub(crate) mod definition;
mod end;
pub mod engine;
mod error;
mod results;
mod start;

pub use self::{
    builder::{IntoJob, StepNames},
    check::{DEFINITION_LIMIT, JOBS_LIMIT},
    definition::{IfFailed, JobSpec, Step, Steps, Workflow},
    end::{ADDED_LIMIT, END, RESULT_LIMIT, START, StepEnd, StepOutcome},
    error::WorkflowError,
    results::{PredecessorResults, RESULTS_LIMIT, StepResultError},
    start::StartError,
};
pub use crate::message::step::{HOPS_PER_LIFE, Role, StepRef, cancel_id};
