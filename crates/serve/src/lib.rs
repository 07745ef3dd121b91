//! Leveret's server: submit and follow jobs over HTTP, run workflows, keep dead letters and replay them.
//!
//! The crate is a library: the `leveret` command runs it, and other programs can run it beside their own work.
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
//! Modules import only those above them, in this order (`tests/api/layers.rs` checks it).
//!
//! * `time`, `json`, `detached`, `field_error`, `schema`: helpers. `schema` checks payloads.
//! * `waiters`: clients that wait for jobs. `recorder`: writes status updates into the store.
//! * `dead`: dead letters ingested from the broker, kept, and replayed.
//! * `workflow_metrics`, `publisher_task`, `consumers`: what the parts of the server that run workflows share.
//! * `services`: the state that the modules below share.
//! * `idempotency`: keys with which a repeated request gets the same response.
//! * `jobs`: submit, find, wait for, cancel and retry jobs. It has no HTTP, so that commands use it too.
//! * `workflows`: start, run, show, cancel and retry workflows. It has no HTTP either.
//! * `tracker`: moves status updates of tracked jobs from the broker into the store.
//! * `tokens`, `http`: roles, routes, error responses, the OpenAPI document.
//! * `options`, `server`: settings, and the server process.

mod consumers;
pub mod dead;
mod detached;
mod field_error;
mod http;
mod idempotency;
pub mod jobs;
mod json;
mod options;
mod publisher_task;
mod recorder;
mod schema;
mod server;
mod services;
mod tokens;
mod tracker;
mod waiters;
mod workflow_metrics;
pub mod workflows;

pub use crate::{
    options::{Error, Options},
    server::{Server, serve},
    services::Services,
    tokens::{Holder, Role, Tokens, TokensError},
};
