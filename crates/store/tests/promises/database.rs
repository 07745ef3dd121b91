//! The store of one test.

pub(crate) use leveret_harness::Database;
use leveret_store::{AuditStamp, ReplayLease, Store};

/// The time of all tests.
pub(crate) const NOW: u64 = 1_800_000_000_000;
pub(crate) const HOUR: u64 = 3_600_000;
pub(crate) const DAY: u64 = 24 * HOUR;

/// The author of their actions.
pub(crate) const ANNA: AuditStamp<'static> = AuditStamp { actor: "anna", at: NOW };

/// The lease of their replays.
pub(crate) const RUN: ReplayLease<'static> = ReplayLease { owner: "run-1", until: NOW + HOUR };

/// Opens the store of a test's database.
pub(crate) trait OpenStore {
    async fn open(&self) -> Store;
}

impl OpenStore for Database {
    async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }
}
