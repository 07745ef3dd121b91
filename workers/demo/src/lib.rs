//! The demo: all workers on real jobs, in memory or on RabbitMQ, and the outcome of every job.
//!
//! In reading order: [`jobs`] reads the jobs to publish. [`run`] starts the workers, publishes, and waits. [`mail_server`]
//! receives the mails and is down at first. [`shop`] places the orders, and
//! [`checkouts`] those that are workflows. [`ledger`] records each attempt as a middleware of
//! all workers, [`progress`] shows it, and [`summary`] shows the outcomes. [`api`] accepts tasks over HTTP, and [`task`] is
//! the job of these tasks.
//!
//! Nothing is simulated: a job fails because a mail server is down, a mailbox is refused, an address is invalid or a column
//! is missing. The outcomes come from the attempts and from the dead letters in the store of the server.

pub mod api;
pub mod checkouts;
pub mod jobs;
pub mod ledger;
pub mod mail_server;
pub mod progress;
pub mod run;
pub mod shop;
pub mod summary;
pub mod task;
