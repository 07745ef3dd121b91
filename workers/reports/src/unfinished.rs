//! The state of an unfinished report: a hidden file in the output directory, from which the next attempt continues.
//!
//! The figures of 100,000 groups are too large for the checkpoint of a job, so the checkpoint names this file. A process
//! without the file, or with a data set that has changed since, starts the report again.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufReader, BufWriter},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{error::ReportError, paths::OpenDataset, scan::ScanState, write::AtomicFile};

/// The position of an unfinished report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportCheckpoint {
    /// The name of the file with its figures.
    pub file: String,
    /// Bytes of the data set that it has read.
    pub bytes: u64,
}

/// The file of one job's report.
#[derive(Debug)]
pub(crate) struct UnfinishedReport {
    dir: PathBuf,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct Saved<'s> {
    /// The data set that was read.
    bytes: u64,
    modified: SystemTime,
    state: ScanState<'s>,
}

impl UnfinishedReport {
    pub(crate) fn new(dir: &Path, job_id: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        job_id.hash(&mut hasher);
        Self { dir: dir.to_owned(), name: format!(".{:016x}.unfinished", hasher.finish()) }
    }

    /// Writes the state, and replaces the one before.
    pub(crate) fn save(&self, state: ScanState<'_>, of: &OpenDataset) -> Result<ReportCheckpoint, ReportError> {
        let bytes = state.at.byte;
        let saved = Saved { bytes: of.bytes, modified: of.modified, state };
        let write = || {
            let file = AtomicFile::create(&self.dir, &self.name)?;
            serde_json::to_writer(BufWriter::new(file.file()), &saved)?;
            file.publish()
        };
        write().map_err(|source| ReportError::Write { name: self.name.clone(), source })?;
        Ok(ReportCheckpoint { file: self.name.clone(), bytes })
    }

    /// Reads the state that the checkpoint names. Returns `None` if there is none for this data set.
    pub(crate) fn load(&self, checkpoint: &ReportCheckpoint, of: &OpenDataset) -> Option<ScanState<'static>> {
        if checkpoint.file != self.name {
            return None;
        }
        let read = || -> io::Result<Saved<'static>> {
            let file = fs::File::open(self.dir.join(&self.name))?;
            Ok(serde_json::from_reader(BufReader::new(file))?)
        };
        match read() {
            Ok(saved) if (saved.bytes, saved.modified) == (of.bytes, of.modified) => Some(saved.state),
            Ok(_) => {
                tracing::info!("the data set has changed: the report starts again");
                None
            }
            Err(error) => {
                tracing::warn!(file = self.name, %error, "cannot read the figures of the unfinished report: it starts again");
                None
            }
        }
    }

    /// Deletes the file, if there is one.
    pub(crate) fn delete(&self) {
        if let Err(error) = fs::remove_file(self.dir.join(&self.name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = self.name, %error, "cannot delete the file of a finished report");
        }
    }
}
