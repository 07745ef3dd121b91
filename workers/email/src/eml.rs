//! Writes each mail into its own file, for a worker without a mail server.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::Builder;

use crate::error::MailError;

/// Writes `<dir>/<name>.eml` atomically, replaces an earlier file of that name, and syncs it.
///
/// Only the user of the worker may read the file, because a mail is personal.
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
    // The rename must survive a power cut, because the worker acks the job after it.
    File::open(dir)?.sync_all()
}
