//! The demo: all workers on real input, in this process's memory or on RabbitMQ, and what became of every job.
//!
//! In reading order: [`input`] reads the jobs to publish; [`show`] starts the workers, publishes and waits;
//! [`mail_server`] takes the mails, and is down at first; [`stall`] takes orders; [`ledger`] writes down each attempt as a middleware of
//! all workers; [`progress`] shows it as it happens; [`summary`] is what is left to say; [`api`] takes tasks over
//! HTTP, and [`task`] is what they do.
//!
//! Nothing is staged: a job fails here because a mail server is down, a mailbox refused, an address wrong or a column
//! missing, and its fate is read from the attempts made and from the broker's dead letters.

pub mod api;
pub mod input;
pub mod ledger;
pub mod mail_server;
pub mod progress;
pub mod show;
pub mod stall;
pub mod summary;
pub mod task;
