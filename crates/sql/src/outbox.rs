//! The transactional outbox: a job is published if, and only if, the transaction that enqueued it commits.
//!
//! [`Outbox::enqueue`] writes the job into a table beside your data, and a [`Relay`] publishes what was committed. The
//! job gets its id when it is enqueued. All copies of the job have this id, also after a crash.
//!
//! ```
//! use leveret::NewJob;
//! use leveret_sql::Outbox;
//! use sqlx::sqlite::SqlitePool;
//! # #[derive(serde::Serialize, serde::Deserialize, leveret::Job)] #[job(name = "email.send", queue = "email")]
//! # struct SendEmail { to: String }
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let url = format!("sqlite://{}?mode=rwc", folder.path().join("shop.db").display());
//! let pool = SqlitePool::connect(&url).await?;          // or a PgPool
//! Outbox::migrate(&pool).await?;
//!
//! let mut tx = pool.begin().await?;
//! // … the order's row, in the same transaction …
//! let id = Outbox::enqueue(&mut tx, &SendEmail { to: "ada@example.org".into() }).await?;
//! Outbox::enqueue_ordered(&mut tx, "customer-7", NewJob::raw("report", "reports", "{}").track()).await?;
//! tx.commit().await?;
//! # let _ = id;
//! assert_eq!(Outbox::new(&pool).status().await?.pending, 2);
//! # Ok(()) }
//! ```
//!
//! # Layout
//!
//! * `enqueue`: writes a job in a transaction. `emit`: the same for events. `start`: the same for
//!   workflows. `operate`: what an operator sees and does.
//! * `relay`: publishes what was committed. `claim`: its statements. `relay/publish`: publishes one batch. `metrics`.

mod claim;
mod emit;
mod enqueue;
mod metrics;
mod operate;
mod relay;
mod start;

pub use self::{
    enqueue::Outbox,
    operate::{OutboxStatus, SetAsideJob, SetAsideSelection},
    relay::{Relay, Waker},
};
