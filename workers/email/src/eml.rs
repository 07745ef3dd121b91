//! Writes each mail into a file of its own: what the worker does while there is no mail server.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::Builder;

use crate::error::MailError;

/// Writes `<dir>/<name>.eml` whole or not at all, in place of an earlier file of that name; safe on disk on return.
///
/// Only the worker's user may read the file: a mail is personal.
pub(crate) async fn write(dir: PathBuf, name: String, bytes: Vec<u8>) -> Result<(), MailError> {
    let path = dir.join(format!("{name}.eml"));
    let target = path.clone();
    let written = tokio::task::spawn_blocking(move || replace(&dir, &target, &bytes)).await;
    let outcome = written.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    outcome.map_err(|source| MailError::File { path, source })
}

fn replace(dir: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut file = Builder::new().prefix(".").suffix(".tmp").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(target)?;
    // The rename itself must outlive a power cut, as the job is acked after it.
    File::open(dir)?.sync_all()
}
