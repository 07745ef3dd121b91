//! Workflows: started, run, shown, cancelled and retried. The module has no HTTP, so that commands use it too.
//!
//! In the order of a workflow's life: `submission` (a definition from a client), `operate` (start, cancel, pause,
//! retry), `ingest` (definitions and the ends of steps from the broker), `publish` (what follows from them), `show`,
//! `view` and `status` (responses), `follow`, `drawing` (pictures). `run` is the part of the server process.
//!
//! The store applies what happens in one transaction with an outbox. A message of the broker is acked after the commit, so
//! a server can be killed at any moment.

pub mod drawing;
mod error;
mod follow;
mod ingest;
mod operate;
mod publish;
mod run;
mod show;
mod status;
mod submission;
mod view;

pub(crate) use self::run::run;
pub use self::{
    error::Error,
    follow::FollowingWorkflow,
    operate::Command,
    show::MOST_STEPS,
    status::{StepStatus, WorkflowStatus},
    submission::{check, read},
    view::{JobResult, ResultJson, StepView, Steps, WorkflowProgress, WorkflowView},
};
