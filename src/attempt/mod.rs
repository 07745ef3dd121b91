//! One attempt at one job: its admission, the handler, the decision, and the settlement of the delivery.
//!
//! The files in the order in which a delivery passes them: `admission` (may it run?), `task` (one job, from its handler to a
//! safe outcome), `run` (the attempt itself), `handler`, `middleware` and `context` (what the user's code sees), `batch` and
//! `gather` (one handler for many jobs), `checkpoint` (how far a long job has come), `verdict` and `retry_policy` (a pure
//! verdict), `settle` (carries the verdict out; the only file that acks), `reply` (answers a request), `step` (reports the end
//! of a workflow's step).

pub(crate) mod admission;
pub(crate) mod batch;
pub(crate) mod checkpoint;
pub(crate) mod context;
pub(crate) mod disposition;
pub(crate) mod gather;
pub(crate) mod handler;
pub(crate) mod middleware;
pub(crate) mod reply;
pub(crate) mod retry_policy;
pub(crate) mod run;
pub(crate) mod runtime;
pub(crate) mod settle;
pub(crate) mod step;
pub(crate) mod task;
pub(crate) mod tracked;
pub(crate) mod verdict;
