//! The files that the processes of a scenario write, read as they grow into the audit.

use std::{collections::HashMap, path::PathBuf};

use leveret_tests::{
    audit::Audit,
    load::{Line, Tail, What},
};

use crate::prober::is_probe;

#[derive(Debug)]
pub(crate) struct Books {
    folder: tempfile::TempDir,
    effects: Tail,
    receipts: Tail,
    pub(crate) audit: Audit,
    /// The lines of workers about probes since the last fault.
    pub(crate) probes: Vec<Line>,
    /// The time at which the newest event that a subscription has started was made.
    newest: HashMap<String, u64>,
}

impl Books {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let tail = |name| Tail::new(folder.path().join(name));
        Ok(Self {
            effects: tail("effects"),
            receipts: tail("receipts"),
            audit: Audit::default(),
            probes: Vec::new(),
            newest: HashMap::new(),
            folder,
        })
    }

    /// Returns the file that workers write.
    pub(crate) fn effects(&self) -> PathBuf {
        self.folder.path().join("effects")
    }

    /// Returns the file that publishers write.
    pub(crate) fn receipts(&self) -> PathBuf {
        self.folder.path().join("receipts")
    }

    /// Reads the new lines, and returns the receipts among them.
    pub(crate) fn read(&mut self) -> anyhow::Result<Vec<Line>> {
        let (receipts, effects) = (self.receipts.lines()?, self.effects.lines()?);
        receipts.iter().chain(&effects).for_each(|line| self.audit.read(line));
        for line in effects.iter().filter(|line| line.what == What::Start) {
            if let Some((_, subscription)) = line.id.split_once('@') {
                let newest = self.newest.entry(subscription.to_owned()).or_default();
                *newest = line.made_us.max(*newest);
            }
        }
        self.probes.extend(effects.into_iter().filter(|line| is_probe(&line.id)));
        Ok(receipts)
    }

    /// Returns whether a subscription has started an event that was made after this time.
    pub(crate) fn has_newer(&self, subscription: &str, us: u64) -> bool {
        self.newest.get(subscription).is_some_and(|newest| *newest > us)
    }
}
