//! The database of Leveret's server, a [`Store`]: the status of tracked jobs, dead letters, workflows, idempotency keys,
//! the audit log; and for workers and publishers shared limits and unique keys.
//!
//! SQLite serves one server, PostgreSQL several. The statements are the same on both. The transactional outbox and the
//! inbox, which are in *your* database, are in the crate `leveret-sql`, whose connection pools this crate uses.
//! Unique keys are here, because the server frees a key in the transaction that records the end of its job.
//!
//! ```
//! use leveret::status_update::{StatusUpdate, Transition};
//! use leveret_store::{JobState, Store};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("leveret.db").display().to_string();
//! let store = Store::open(&format!("sqlite:{path}")).await?;
//! let update = StatusUpdate {
//!     id: "order-17".into(),
//!     job: "email.send".into(),
//!     queue: "email".into(),
//!     origin: None,
//!     label: None,
//!     priority: None,
//!     attempt: 1,
//!     hop: 0,
//!     enqueued_at: None,
//!     at: std::time::SystemTime::now(),
//!     worker: None,
//!     transition: Transition::Started,
//! };
//! store.record(&[update]).await?;
//! assert_eq!(store.job("order-17").await?.map(|job| job.state), Some(JobState::Started));
//! # Ok(()) }
//! ```
//!
//! # Layout
//!
//! * `open`: the database and its write locks. `page`: pages and cursors. `time`: times in JSON.
//! * `status`: tracked jobs. `idempotency`: responses to repeated requests. `unique`: keys of unique jobs.
//! * `dead`: dead letters, from their ingestion to their replay.
//! * `workflows`: workflows, their steps and jobs, and what is to be published next.
//! * `permits`: limits that workers share.
//! * `audit`: the audit log. `retention`: the deletion of old rows.
//!
//! All tables begin with `leveret_` and may stand beside others. Every statement has a time limit on the client's side:
//! 5 s on PostgreSQL, or 60 s if it may read all rows; 60 s on SQLite.

mod audit;
mod dead;
mod idempotency;
mod open;
mod page;
mod permits;
mod retention;
mod status;
#[doc(hidden)]
pub mod time;
mod unique;
mod workflows;

pub use leveret_sql::{Error, Result};

pub use crate::{
    audit::{AuditEntry, AuditStamp},
    dead::{
        DeadFilter, DeadGroup, DeadLetter, DeadSource, DeadState, HistoryEntry, NewDead, Replay, ReplayLease,
        Selection, StoredDeadLetter, fingerprint,
    },
    idempotency::{IdempotencyClaim, IdempotencyRequest},
    open::Store,
    page::{Cursor, InvalidCursor, Page},
    retention::{Pruned, Retention},
    status::{JobFilter, JobState, StatusChange, TimelineEntry, TrackedJob},
    workflows::{
        AppliedWorkflows, BlockedMessage, InputOutcome, NewWorkflow, StoredStep, StoredWorkflow, StoredWorkflowJob,
        WorkflowCounts, WorkflowFilter, WorkflowInput, WorkflowMessage, WorkflowPublish, WorkflowPublishes,
        WorkflowSums,
    },
};
