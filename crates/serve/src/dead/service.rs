//! The service that all operations on dead letters are methods of.

use leveret::{Broker, catalogue::Catalogue};
use leveret_store::Store;

/// Where dead letters are looked after: a broker to publish to, and the store that has them. Clones are cheap.
#[derive(Clone, Debug)]
pub struct DeadLetterService {
    pub(super) broker: Broker,
    pub(super) store: Store,
    pub(super) catalogue: Catalogue,
}

impl DeadLetterService {
    /// A desk; the catalogue has the schemas that edited payloads are checked against.
    #[must_use]
    pub fn new(broker: &Broker, store: &Store, catalogue: &Catalogue) -> Self {
        Self { broker: broker.clone(), store: store.clone(), catalogue: catalogue.clone() }
    }
}
