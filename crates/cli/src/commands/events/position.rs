//! The file that keeps how far a replay is.
//!
//! Each event has a line before its publish and another after its confirm. So a replay that was killed goes on without the
//! events that were confirmed, and can name those whose confirm it had not seen.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use leveret::JobId;

use crate::output::Failure;

/// Size at which the file is written anew, without the lines that do not count any more.
const LONGEST: u64 = 1024 * 1024;

/// The progress of a replay.
#[derive(Debug)]
pub(super) struct Position {
    /// The start of the ids of copies whose events have none to keep. The same for all runs of one replay.
    replay: String,
    about: String,
    /// The first event that is not done. Unknown before the first event is read.
    next: Option<u64>,
    /// Events from there on that were sent, and whether each is confirmed.
    sent: BTreeMap<u64, bool>,
    journal: Option<Journal>,
}

/// The open file, which is locked against other replays.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Position {
    /// A position that is forgotten at the end.
    pub(super) fn unkept(to: &str, topic: Option<&str>) -> Self {
        let about = format!("to {to} of {}", topic.unwrap_or("#"));
        Self { replay: JobId::mint().to_string(), about, next: None, sent: BTreeMap::new(), journal: None }
    }

    /// Reads the position of an earlier run from the file, if it exists.
    pub(super) fn read(path: &Path, to: &str, topic: Option<&str>) -> Result<Self, Failure> {
        let mut position = Self::unkept(to, topic);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(position),
            Err(error) => return Err(Failure::Usage(anyhow!("{}: {error}", path.display()))),
        };
        if !text.is_empty() {
            let of = path.display();
            position.load(&text).map_err(|reason| Failure::Usage(anyhow!("{of} {reason}: name another file")))?;
        }
        Ok(position)
    }

    /// The same, and keeps the position in the file from now on.
    pub(super) fn keep(path: &Path, to: &str, topic: Option<&str>) -> Result<Self, Failure> {
        let opened = File::options().create(true).append(true).open(path);
        let file = opened.map_err(|error| Failure::Usage(anyhow!("{}: {error}", path.display())))?;
        lock(&file, path)?;
        let mut position = Self::read(path, to, topic)?;
        position.journal = Some(Journal { path: path.to_owned(), file, size: 0 });
        position.write_anew()?;
        Ok(position)
    }

    /// Reads the lines of a file. A kill may have cut off the last one.
    fn load(&mut self, text: &str) -> Result<(), String> {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        let about = lines.next().and_then(|line| line.strip_prefix("replay ")).and_then(|line| line.split_once(' '));
        let (replay, about) = about.ok_or("is no position of a replay")?;
        if about != self.about {
            return Err(format!("has the position of a replay {about}, and this one is {}", self.about));
        }
        replay.clone_into(&mut self.replay);
        for line in lines {
            let (word, number) = line.split_once(' ').unwrap_or_default();
            let number: u64 = number.parse().map_err(|_| format!("has the line {line:?}"))?;
            match word {
                "next" => self.next = Some(number),
                "sent" => drop(self.sent.entry(number).or_insert(false)),
                "confirmed" => drop(self.sent.insert(number, true)),
                _ => return Err(format!("has the line {line:?}")),
            }
        }
        self.forget();
        Ok(())
    }

    /// The first event that is not done, if an earlier run has read any.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Events that were sent, and whose confirm no run has seen.
    pub(super) fn in_doubt(&self) -> Vec<u64> {
        self.sent.iter().filter(|(_, confirmed)| !**confirmed).map(|(offset, _)| *offset).collect()
    }

    pub(super) fn is_confirmed(&self, offset: u64) -> bool {
        self.sent.get(&offset).is_some_and(|confirmed| *confirmed)
    }

    /// The id of the copy of an event that has none to keep: the same if it is sent again after an interruption.
    pub(super) fn id(&self, offset: u64) -> String {
        format!("{}-{offset}", self.replay)
    }

    /// Records that an event will be sent.
    pub(super) fn sending(&mut self, offset: u64) -> Result<(), Failure> {
        self.sent.entry(offset).or_insert(false);
        self.add("sent", offset)
    }

    pub(super) fn confirmed(&mut self, offset: u64) -> Result<(), Failure> {
        self.sent.insert(offset, true);
        self.add("confirmed", offset)
    }

    /// Records that all events before this one are done.
    pub(super) fn reached(&mut self, next: u64, write: bool) -> Result<(), Failure> {
        self.next = Some(next);
        self.forget();
        if write { self.add("next", next) } else { Ok(()) }
    }

    fn forget(&mut self) {
        if let Some(next) = self.next {
            self.sent = self.sent.split_off(&next);
        }
    }

    /// One line is one write, which a kill does not divide.
    fn add(&mut self, word: &str, offset: u64) -> Result<(), Failure> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let line = format!("{word} {offset}\n");
        journal.file.write_all(line.as_bytes()).with_context(|| format!("writing {}", journal.path.display()))?;
        journal.size += line.len() as u64;
        if journal.size > LONGEST { self.write_anew() } else { Ok(()) }
    }

    /// Replaces the file with one that has only the lines that count.
    fn write_anew(&mut self) -> Result<(), Failure> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let mut text = format!("replay {} {}\n", self.replay, self.about);
        text.extend(self.next.map(|next| format!("next {next}\n")));
        for (offset, confirmed) in &self.sent {
            text.push_str(&format!("{} {offset}\n", if *confirmed { "confirmed" } else { "sent" }));
        }
        let (path, new) = (journal.path.as_path(), journal.path.with_extension("new"));
        let written = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            file.try_lock()?;
            std::fs::rename(&new, path)?;
            Ok::<_, std::io::Error>(file)
        };
        journal.file = written().with_context(|| format!("writing {}", path.display()))?;
        journal.size = text.len() as u64;
        Ok(())
    }
}

/// The lock ends with the process.
fn lock(file: &File, path: &Path) -> Result<(), Failure> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::Usage(anyhow!("another replay keeps its position in {}: name another file", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(Failure::Usage(anyhow!("{}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(path: &Path) -> Position {
        Position::keep(path, "audit", Some("order.*")).unwrap()
    }

    #[test]
    fn a_later_run_knows_what_was_confirmed_and_what_is_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let mut first = keep(&path);
        assert_eq!((first.next(), first.in_doubt()), (None, vec![]));
        let id = first.id(7);
        first.reached(5, true).unwrap();
        for offset in [5, 6, 7] {
            first.sending(offset).unwrap();
        }
        first.confirmed(6).unwrap();
        first.confirmed(5).unwrap();
        first.reached(6, false).unwrap();
        drop(first);
        // The line that a kill cut off.
        File::options().append(true).open(&path).unwrap().write_all(b"confirmed 7").unwrap();
        let second = keep(&path);
        assert_eq!((second.next(), second.in_doubt(), second.id(7)), (Some(5), vec![7], id));
        assert!(second.is_confirmed(5) && second.is_confirmed(6) && !second.is_confirmed(7));
    }

    #[test]
    fn the_file_stays_small_and_keeps_what_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let mut position = keep(&path);
        position.sending(0).unwrap();
        for offset in 1..100_000 {
            position.sending(offset).unwrap();
            position.confirmed(offset).unwrap();
            position.reached(offset.saturating_sub(9), false).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= LONGEST);
        drop(position);
        let read = keep(&path);
        assert!(read.is_confirmed(99_999) && read.in_doubt().is_empty());
    }

    #[test]
    fn a_file_of_another_replay_or_of_one_that_runs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let running = keep(&path);
        let refused = |to, topic| Position::keep(&path, to, topic).unwrap_err().error().to_string();
        assert!(refused("audit", Some("order.*")).contains("another replay"));
        drop(running);
        assert!(refused("mail", Some("order.*")).contains("to audit of order.*, and this one is to mail of order.*"));
        assert!(refused("audit", None).contains("of order.*, and this one is to audit of #"));
        std::fs::write(&path, "41\n").unwrap();
        assert!(refused("audit", None).contains("is no position of a replay"));
    }
}
