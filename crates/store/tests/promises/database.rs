//! A database of one test.

use leveret_harness::shared_postgres;
use leveret_store::{By, Lease, Store};
use tempfile::TempDir;

/// When tests play.
pub(crate) const NOW: u64 = 1_800_000_000_000;
pub(crate) const HOUR: u64 = 3_600_000;
pub(crate) const DAY: u64 = 24 * HOUR;

/// Who acts in them.
pub(crate) const ANNA: By<'static> = By { actor: "anna", at: NOW };

/// Who runs their replays.
pub(crate) const RUN: Lease<'static> = Lease { owner: "run-1", until: NOW + HOUR };

/// An empty database, gone with the test.
pub(crate) struct Database {
    pub(crate) url: String,
    _folder: Option<TempDir>,
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("leveret test.db").display());
        Self { url, _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        Self { url: shared_postgres().await.database().await, _folder: None }
    }

    /// In a server of the test's own.
    pub(crate) fn at(url: String) -> Self {
        Self { url, _folder: None }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }
}
