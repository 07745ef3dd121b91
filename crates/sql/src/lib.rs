//! The transactional outbox, the inbox and the projections of [`leveret`]: tables in *your* database, beside your data.
//!
//! * [`Outbox`]: enqueues a job in your transaction. A [`Relay`] publishes the job if, and only if, the transaction
//!   commits.
//! * [`Inbox`]: records a job's id in the transaction of its effect, so that a redelivered job has its effect once.
//! * [`Projection`]: computes a view from the log of events, in which each event has its effect once.
//!
//! All work on PostgreSQL and on SQLite, with the pools and transactions of [`sqlx`]. Their tables begin with
//! `leveret_` and stand beside yours. The tables of the *server* (status of tracked jobs, dead letters, audit log,
//! shared limits and unique keys) are in the crate `leveret-store`, which a service with an outbox does not compile.
//!
//! # Time limits
//!
//! Every statement has a time limit on the client's side, because a halted database or a broken network gives no answer
//! and no error. A statement without an answer fails with [`Error::Silent`], and its connection is closed.
//!
//! | statements of | limit on PostgreSQL | on SQLite |
//! |---|---|---|
//! | [`Relay`], [`Outbox`], [`Inbox`] on a pool | [`Outbox::statement_timeout`], 5 s by default; 60 s if they may read all rows | 60 s |
//! | [`Outbox::enqueue`] and [`Inbox::once`] in your transaction | 30 s, because they may wait for other transactions | 60 s |
//! | [`Projection`], [`Projections`] | 5 s, 60 s if they may wait for other transactions; a [handler](Projection::timeout) 30 s | the same, 60 s |
//! | your own: `BEGIN`, your statements, `COMMIT` | none: wrap the transaction into [`tokio::time::timeout`] | none |

#[doc(hidden)]
pub mod db;
mod error;
#[cfg(feature = "inbox")]
mod inbox;
mod outbox;
pub mod projection;

#[cfg(feature = "inbox")]
pub use crate::inbox::{Inbox, InboxStatus};
pub use crate::{
    db::Connection,
    error::{Error, LogPosition, Result},
    outbox::{Outbox, OutboxStatus, Relay, SetAsideJob, SetAsideSelection, Waker},
    projection::{Projection, ProjectionConnection, ProjectionFailure, ProjectionStatus, Projections},
};
