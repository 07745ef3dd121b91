//! What Leveret keeps in a database: for its server the status of tracked jobs, and dead letters ([`Store`]); for you the
//! jobs that commit with your data ([`Outbox`]) and have their effects once ([`Inbox`]).
//!
//! SQLite for one server, PostgreSQL for several; the same SQL on both. Only the outbox's [`Relay`] speaks to a broker.
//!
//! ```
//! use leveret::status_update::{StatusUpdate, Step};
//! use leveret_store::{State, Store};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("leveret.db").display().to_string();
//! let store = Store::open(&format!("sqlite:{path}")).await?;
//! let event = StatusUpdate {
//!     id: "order-17".into(),
//!     job: "email.send".into(),
//!     queue: "email".into(),
//!     origin: None,
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
//! * `embedded`: tables apart from all others, which may live in any database of yours. `outbox`: jobs that are published
//!   if the transaction that enqueued them commits. `inbox`: jobs whose effects happen once.
//! * `permits`: limits that workers share.
//! * `audit`: who did what. `retention`: what is deleted, and when.
//!
//! All tables begin with `leveret_` and may lie in a database that has others.

mod audit;
mod dead;
mod embedded;
mod error;
mod idempotency;
mod inbox;
mod lent;
mod open;
mod outbox;
mod page;
mod permits;
mod retention;
mod schema;
mod sql;
mod status;
mod time;
mod unique;

pub use crate::{
    audit::{AuditEntry, By},
    dead::{
        DeadFilter, DeadLetter, DeadSource, DeadState, Group, HistoryEntry, Lease, Letter, NewDead, Replay, Selection,
        fingerprint,
    },
    embedded::Connection,
    error::{Error, Result, chain},
    idempotency::{Claim, Claiming},
    inbox::{Inbox, InboxStatus},
    open::Store,
    outbox::{Chosen, Entry, Outbox, OutboxStatus, Relay, SetAside, Waker},
    page::{Cursor, Page},
    retention::{Pruned, Retention},
    status::{Filter, Job, Moved, State, TimelineEntry},
};
