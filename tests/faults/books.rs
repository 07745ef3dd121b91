//! The files that the processes of a scenario write, read as they grow into the audit.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::Context as _;
use leveret_tests::{audit::Audit, load::Line};

#[derive(Debug)]
pub(crate) struct Books {
    folder: tempfile::TempDir,
    effects: Tail,
    receipts: Tail,
    pub(crate) audit: Audit,
}

impl Books {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let tail = |name| Tail { path: folder.path().join(name), read: 0 };
        Ok(Self { effects: tail("effects"), receipts: tail("receipts"), audit: Audit::default(), folder })
    }

    /// Where workers write.
    pub(crate) fn effects(&self) -> PathBuf {
        self.folder.path().join("effects")
    }

    /// Where publishers write.
    pub(crate) fn receipts(&self) -> PathBuf {
        self.folder.path().join("receipts")
    }

    /// Takes in what has been written since, and returns it.
    pub(crate) fn read(&mut self) -> anyhow::Result<New> {
        let new = New { receipts: self.receipts.lines()?, effects: self.effects.lines()? };
        new.receipts.iter().chain(&new.effects).for_each(|line| self.audit.read(line));
        Ok(new)
    }
}

/// Lines that were written since the last look.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) receipts: Vec<Line>,
    pub(crate) effects: Vec<Line>,
}

/// A file of lines that grows.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    read: u64,
}

impl Tail {
    fn lines(&mut self) -> anyhow::Result<Vec<Line>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        text[..whole].lines().map(|line| line.parse().with_context(|| format!("line {line:?}"))).collect()
    }
}
