//! Rules of the workspace that no compiler checks.
#![expect(clippy::unwrap_used, reason = "what cannot be read fails the test")]

mod dependencies;

use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
