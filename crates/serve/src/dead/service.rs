//! The service that all operations on dead letters are methods of.

use leveret::{Broker, catalogue::Catalogue};
use leveret_store::Store;

/// Operations on dead letters: a broker to publish to, and the store that keeps the letters. Clones are cheap.
#[derive(Clone, Debug)]
pub struct DeadLetterService {
    pub(super) broker: Broker,
    pub(super) store: Store,
    pub(super) catalogue: Catalogue,
}

impl DeadLetterService {
    /// Creates the service. Edited payloads are checked against the schemas of the catalogue.
    #[must_use]
    pub fn new(broker: &Broker, store: &Store, catalogue: &Catalogue) -> Self {
        Self { broker: broker.clone(), store: store.clone(), catalogue: catalogue.clone() }
    }
}
