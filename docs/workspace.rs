//! Rules of the workspace that no compiler checks.
#![expect(clippy::unwrap_used, reason = "an unreadable file fails the test")]

mod dependencies;
mod vocabulary;

use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
