//! The dead-letter desk: takes dead letters out of the broker, keeps them, and brings them back. The HTTP API and the
//! command line are two faces of it.
//!
//! In the order of a letter's way: [`intake`] from the broker into the store, [`letter`] what it says there, [`redact`]
//! how it is shown, [`edit`] with another payload, [`replay`] back to its queue (a few first: `canary`; not too fast:
//! `pace`; by one at a time: `lease`), [`transfer`] to files and back. [`direct`] does the same with a queue as it is, without a store.
//!
//! ```no_run
//! use leveret::{Broker, catalogue::Catalogue};
//! use leveret_serve::desk::{Desk, replay::Options};
//! use leveret_store::{DeadFilter, Selection, Store};
//!
//! # async fn doc(broker: Broker, store: Store) -> Result<(), leveret_serve::desk::Error> {
//! let desk = Desk::new(&broker, &store, &Catalogue::follow(&broker));
//! let of_email = DeadFilter { queue: Some("email".into()), ..DeadFilter::default() };
//! let options = Options { canary: Some(5), ..Options::default() };
//! let summary = desk.replay(&Selection::Filter(of_email), &options, "anna", |_| ()).await?;
//! println!("{} of {}: {}", summary.replayed, summary.total, summary.outcome);
//! # Ok(()) }
//! ```

mod canary;
pub mod direct;
pub mod edit;
pub mod intake;
mod lease;
pub mod letter;
mod pace;
pub mod redact;
pub mod replay;
pub mod transfer;

use leveret::{Broker, catalogue::Catalogue};
use leveret_store::Store;

pub use self::lease::Held;
use crate::jobs::Flaw;

/// Where dead letters are looked after: a broker to publish to, and the store that has them. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Desk {
    broker: Broker,
    store: Store,
    catalogue: Catalogue,
}

impl Desk {
    /// A desk; the catalogue has the schemas that edited payloads are checked against.
    #[must_use]
    pub fn new(broker: &Broker, store: &Store, catalogue: &Catalogue) -> Self {
        Self { broker: broker.clone(), store: store.clone(), catalogue: catalogue.clone() }
    }
}

/// Why the desk could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No dead letter of that number lies there.
    #[error("no dead letter {0} lies here")]
    NoLetter(i64),
    /// There was no replay of that number.
    #[error("there is no replay {0}")]
    NoReplay(i64),
    /// A replay that cannot go as it is asked for.
    #[error("{0}")]
    Options(String),
    /// The dead letter has the payload that it died with.
    #[error("dead letter {0} has its original payload")]
    NotEdited(i64),
    /// The replay has ended.
    #[error("replay {0} has ended")]
    Ended(i64),
    /// Somebody runs the replay, or did so until a moment ago and was killed.
    #[error("replay {0} is under way")]
    Running(i64),
    /// A payload that the job's schema does not allow.
    #[error("the payload is not what the job {job} takes: {}", shown(.flaws))]
    Payload {
        /// The job's name.
        job: String,
        /// What is wrong with it, and where.
        flaws: Vec<Flaw>,
    },
    /// The broker was away for too long; the replay is open, and can go on.
    #[error("replay {replay} cannot go on now, and can be resumed: {reason}")]
    Interrupted {
        /// Its number.
        replay: i64,
        /// What the broker said last.
        reason: String,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] leveret_store::Error),
    /// A file could not be read or written.
    #[error("reading or writing failed")]
    Io(#[from] std::io::Error),
}

fn shown(flaws: &[Flaw]) -> String {
    let each: Vec<_> = flaws.iter().map(|flaw| format!("{}: {}", flaw.pointer, flaw.detail)).collect();
    each.join("; ")
}
