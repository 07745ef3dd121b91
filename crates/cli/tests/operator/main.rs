//! The commands for dead letters and the other tools of an operator: the real program against RabbitMQ, SQLite and PostgreSQL.
#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod dead;
mod direct;
mod events;
mod jobs;
mod kills;
mod options;
mod pipes;
mod post;
mod projections;
mod rights;
mod schedules;
mod settings;
mod simulate;
mod topology;
mod workflows;
