//! The dead-letter desk and an operator's other tools: the real program against a real RabbitMQ, SQLite and PostgreSQL.
#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod desk;
mod direct;
mod jobs;
mod kills;
mod options;
mod pipes;
mod post;
mod schedules;
mod settings;
mod simulate;
mod topology;
