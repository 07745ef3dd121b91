//! Projections: views in your database that are computed from the log of events.
//!
//! A [`Projection`] reads the [log](leveret::event_log) in its order and passes each event to the handler of its topic,
//! with a transaction of your database. The position in the log, the ids of the applied events and the effects of the
//! handlers are committed together. So each event of the log has its effect once, however often a process is killed.
//!
//! ```
//! use leveret::Event;
//! use leveret_sql::{Projection, Projections};
//! use serde::{Deserialize, Serialize};
//! use sqlx::SqliteConnection;                                  // or a PgConnection
//!
//! #[derive(Serialize, Deserialize, Event)]
//! #[event(topic = "order.placed")]
//! struct OrderPlaced { day: String, cents: i64 }
//!
//! async fn add(order: OrderPlaced, tx: &mut SqliteConnection) -> sqlx::Result<()> {
//!     let sql = "INSERT INTO revenue (day, cents) VALUES ($1, $2) ON CONFLICT (day) DO UPDATE SET cents = cents + $2";
//!     sqlx::query(sql).bind(order.day).bind(order.cents).execute(tx).await?;
//!     Ok(())
//! }
//!
//! async fn empty(tx: &mut SqliteConnection) -> sqlx::Result<()> {
//!     sqlx::query("DELETE FROM revenue").execute(tx).await?;
//!     Ok(())
//! }
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let url = format!("sqlite://{}?mode=rwc", folder.path().join("shop.db").display());
//! # let pool = sqlx::SqlitePool::connect(&url).await?;
//! # sqlx::query("CREATE TABLE revenue (day TEXT PRIMARY KEY, cents INTEGER NOT NULL)").execute(&pool).await?;
//! # let broker = leveret::Broker::memory();
//! # leveret::event_log::declare(&broker).await?;
//! # broker.publisher().emit(&OrderPlaced { day: "2026-11-30".into(), cents: 1999 }).await?;
//! # let seen = async { loop {
//! #     let sum = sqlx::query_scalar::<_, i64>("SELECT cents FROM revenue").fetch_optional(&pool).await.unwrap();
//! #     if sum == Some(1999) { return; }
//! #     tokio::time::sleep(std::time::Duration::from_millis(20)).await;
//! # } };
//! # let shutdown_signal = || seen;
//! Projections::migrate(&pool).await?;
//! let revenue = Projection::new("revenue", empty).on(add);
//! revenue.run(&broker, &pool, shutdown_signal()).await?;
//! # Ok(()) }
//! ```
//!
//! # Promises
//!
//! * **Once, in order.** Each event of the log is applied once, in the order of the log. An event that was emitted again
//!   with its id, as a relay does after an uncertain confirm, is dropped if its id is among the last ones that the
//!   projection remembers ([`Projection::remember`]).
//! * **One at a time.** Any number of processes may run a projection. One has a lease in the database and applies events. A
//!   process that lost its lease, and does not know it yet, cannot commit: each transaction checks the lease.
//! * **One program.** Another program that uses the name with other topics gets
//!   [`Error::OtherTopics`](crate::Error::OtherTopics), or waits with a warning, like a new version that adds a topic.
//! * **No event is skipped.** A handler that fails is retried with growing pauses, and the projection stands still. An event
//!   that does not decode ends [`Projection::run`] with [`Error::Undecodable`](crate::Error::Undecodable). Only an operator
//!   skips an event ([`Projections::skip`]).
//! * **No gap.** A projection whose last applied event is no longer in the log stops with
//!   [`Error::LogChanged`](crate::Error::LogChanged): retention has removed events, or the log was deleted.
//!
//! # Layout
//!
//! * `builder`: what a user builds. `handler`: erases the types of events. `operate`: what an operator sees and does.
//! * `lead`: the loop of a process. `lease`, `log`, `apply`: its lease, its reader and its transactions. `state`: how they end.
//! * `topics`: detects other programs of the same name. `table`: the SQL. `window`: the ids of the last events.
//!   `metrics`.

mod apply;
mod builder;
mod handler;
mod lead;
mod lease;
mod log;
mod metrics;
mod operate;
mod state;
mod table;
mod topics;
mod window;

pub use self::{
    builder::Projection,
    handler::ProjectionConnection,
    operate::{ProjectionFailure, ProjectionStatus, Projections},
};
