//! Workflows: their definitions, what has become of their steps and jobs, and what is to be published next.
//!
//! The engine of `leveret::workflow` decides. This module loads the rows that it asks for, and stores what has changed
//! together with the outbox in one transaction. Each transaction locks the rows of its workflows in the order of their
//! ids, so several servers can work on one database. A report of one member of a group touches the rows of the workflow,
//! the step and that member, however large the group is.
//!
//! In the order of a workflow's life: `definition` (its rows), `apply` (inputs), `load` and `save` (the rows of a
//! transaction), `outbox` and `publishes` (what is to be published), `row` and `find` (reads), `ended` (retention).

mod apply;
mod definition;
mod ended;
mod find;
mod json_rows;
mod load;
mod outbox;
mod publishes;
mod row;
mod save;

pub use self::{
    apply::{AppliedWorkflows, InputOutcome, WorkflowInput},
    definition::NewWorkflow,
    find::{WorkflowCounts, WorkflowFilter, WorkflowSums},
    outbox::{BlockedMessage, WorkflowMessage},
    publishes::{WorkflowPublish, WorkflowPublishes},
    row::{StoredStep, StoredWorkflow, StoredWorkflowJob},
};
