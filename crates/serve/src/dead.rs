//! Dead letters: ingested from the broker, kept in the store, and replayed. The HTTP API and the command line both use
//! this module.
//!
//! In the order of a dead letter's way: [`ingest`] moves it from the broker into the store, [`letter`] describes it,
//! [`redact`] hides secrets for display, [`edit`] replaces its payload, [`replay`] publishes it again. A replay can
//! publish a few letters first (`canary`), limits its rate (`throttle`), and runs in one process at a time (`lease`).
//! [`transfer`] exports and imports. [`direct`] works on a dead-letter queue without a store.
//!
//! ```no_run
//! use leveret::{Broker, catalogue::Catalogue};
//! use leveret_serve::dead::{DeadLetterService, replay::ReplayOptions};
//! use leveret_store::{DeadFilter, Selection, Store};
//!
//! # async fn doc(broker: Broker, store: Store) -> Result<(), leveret_serve::dead::Error> {
//! let service = DeadLetterService::new(&broker, &store, &Catalogue::follow(&broker));
//! let of_email = DeadFilter { queue: Some("email".into()), ..DeadFilter::default() };
//! let options = ReplayOptions { canary: Some(5), ..ReplayOptions::default() };
//! let summary = service.replay(&Selection::Filter(of_email), &options, "anna", |_| ()).await?;
//! println!("{} of {}: {}", summary.replayed, summary.total, summary.outcome);
//! # Ok(()) }
//! ```

mod canary;
pub mod direct;
pub mod edit;
mod error;
pub mod ingest;
mod lease;
pub mod letter;
pub mod redact;
pub mod replay;
mod service;
mod throttle;
pub mod transfer;

pub use self::{error::Error, lease::LeasedReplay, service::DeadLetterService};
