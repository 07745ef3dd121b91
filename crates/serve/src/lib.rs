//! Leveret's server: jobs are submitted and followed over HTTP, dead letters are kept and brought back.
//!
//! A library, so that the `leveret` command and other programs can serve it next to their own work.
//!
//! ```no_run
//! use leveret::{Broker, Config};
//! use leveret_serve::{Options, Services, serve};
//! use leveret_store::Store;
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = Broker::amqp(Config::default())?;
//! let services = Services::new(&broker, Store::open("leveret.db").await?);
//! serve(services, Options::default(), leveret::shutdown_signal()).await?;
//! # Ok(()) }
//! ```
//!
//! # Layout
//!
//! * `services`: what all parts work with. `server`, `options`, `tokens`: the process around them.
//! * `jobs`: submit, find, wait for, cancel and retry jobs; no HTTP in it, so that commands use it alike.
//! * `tracker`: takes the steps of tracked jobs from the broker into the store. `recorder` adds what this server tells
//!   itself, `waiters` wakes whoever waits for a job.
//! * `desk`: dead letters, out of the broker, kept, and back to their queues.
//! * `http`: routes, access, problems, the OpenAPI document.

pub mod dead;
mod detached;
mod field_error;
mod http;
pub mod jobs;
mod json;
mod options;
mod recorder;
mod schema;
mod server;
mod services;
mod time;
mod tokens;
mod tracker;
mod waiters;

pub use crate::{
    options::{Error, Options},
    server::{Server, serve},
    services::Services,
    tokens::{Holder, Role, Tokens, TokensError},
};
