//! Where Leveret's server keeps what outlives the broker's queues: the status of tracked jobs, and dead letters.
//!
//! SQLite for one server, PostgreSQL for several; the same SQL on both. No broker is spoken to here.
//!
//! ```
//! use leveret::event::{JobEvent, Step};
//! use leveret_store::{State, Store};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("leveret.db").display().to_string();
//! let store = Store::open(&format!("sqlite:{path}")).await?;
//! let event = JobEvent {
//!     id: "order-17".into(),
//!     job: "email.send".into(),
//!     queue: "email".into(),
//!     label: None,
//!     priority: None,
//!     attempt: 1,
//!     hop: 0,
//!     enqueued_at: None,
//!     at: 1_800_000_000_000,
//!     worker: None,
//!     step: Step::Started,
//! };
//! store.record(&[event]).await?;
//! assert_eq!(store.job("order-17").await?.map(|job| job.state), Some(State::Started));
//! # Ok(()) }
//! ```
//!
//! # Layout
//!
//! * `open`, `lent`, `schema`, `sql`, `error`, `page`: the database, connections to it, its tables, statements in the
//!   making, cursors.
//! * `status`: what is known of tracked jobs. `status/fold` makes a job of its events, `status/record` writes it.
//! * `idempotency`: answers that must be the same the second time.
//! * `dead`: dead letters taken in, found, edited, replayed. `dead/fingerprint` tells which of them are alike.
//! * `unique`: keys of jobs of which there is one at a time.
//! * `audit`: who did what. `retention`: what is deleted, and when.
//!
//! All tables begin with `leveret_` and may lie in a database that has others.

mod audit;
mod dead;
mod error;
mod idempotency;
mod lent;
mod open;
mod page;
mod retention;
mod schema;
mod sql;
mod status;
mod unique;

pub use crate::{
    audit::{AuditEntry, By},
    dead::{
        DeadFilter, DeadLetter, DeadSource, DeadState, Group, HistoryEntry, Lease, Letter, NewDead, Replay, Selection,
        fingerprint,
    },
    error::{Error, Result},
    idempotency::{Claim, Claiming},
    open::Store,
    page::{Cursor, Page},
    retention::{Pruned, Retention},
    status::{Filter, Job, Moved, State, TimelineEntry},
};
