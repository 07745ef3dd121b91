//! The file that keeps how far a replay is.
//!
//! Its first line has the options of the replay, its start and its end, so that a later run publishes the same events.
//! Each event has a line before its publish and another after its confirm. So a replay that was killed goes on without
//! the events that were confirmed, and can name those whose confirm it had not seen.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use leveret::{JobId, event_log::LoggedEvent};
use serde::{Deserialize, Serialize};

use super::log::Place;
use crate::output::Failure;

/// Size at which the file is written anew, without the lines that do not count any more.
const LONGEST: u64 = 1024 * 1024;

/// The options that decide which events a replay publishes, and under which ids. All its runs have the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Options {
    pub(super) vhost: String,
    pub(super) namespace: String,
    pub(super) to: String,
    /// As it was given: a duration before now means another place in a later run.
    pub(super) from: String,
    pub(super) topic: Option<String>,
    pub(super) again: bool,
}

/// The first line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    /// The start of the ids of copies whose events have none to keep. The same for all runs of one replay.
    id: String,
    options: Options,
    /// The place that `--from` meant in the first run.
    start: Place,
    /// The newest event when the first run began.
    end: u64,
}

/// The progress of a replay.
#[derive(Debug)]
pub(super) struct Position {
    plan: Plan,
    /// The first event that is not done. Unknown before the first event is read.
    next: Option<u64>,
    /// Events from there on that were sent, and whether each is confirmed.
    sent: BTreeMap<u64, bool>,
    journal: Option<Journal>,
}

/// The open file, which is locked against other replays.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Options {
    fn shown(&self) -> [String; 6] {
        [
            format!("vhost {}", self.vhost),
            format!("--namespace {}", self.namespace),
            format!("--to {}", self.to),
            format!("--from {}", self.from),
            self.topic.as_ref().map_or_else(|| "no --topic".to_owned(), |topic| format!("--topic {topic}")),
            if self.again { "--again" } else { "no --again" }.to_owned(),
        ]
    }

    /// The options of this replay that another one does not have, and those that it has instead.
    fn difference(&self, other: &Self) -> Option<(String, String)> {
        let pairs = self.shown().into_iter().zip(other.shown());
        let (own, others): (Vec<_>, Vec<_>) = pairs.filter(|(own, other)| own != other).unzip();
        (!own.is_empty()).then(|| (own.join(", "), others.join(", ")))
    }
}

impl Journal {
    /// Opens the file, which is created if it does not exist, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let opened = File::options().create(true).append(true).open(path);
        let file = opened.map_err(|error| Failure::Usage(anyhow!("{}: {error}", path.display())))?;
        lock(&file, path)?;
        Ok(Self { path: path.to_owned(), file, size: 0 })
    }
}

impl Position {
    /// The position of a replay that begins. It is forgotten at the end.
    pub(super) fn new(options: Options, start: Place, end: u64) -> Self {
        let plan = Plan { id: JobId::mint().to_string(), options, start, end };
        Self { plan, next: None, sent: BTreeMap::new(), journal: None }
    }

    /// Reads the position of an earlier run with these options from the file, if it has one.
    pub(super) fn read(path: &Path, options: &Options) -> Result<Option<Self>, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::Usage(anyhow!("{}: {error}", path.display()))),
        };
        if text.is_empty() {
            return Ok(None);
        }
        let of = path.display();
        let wrong = |reason: String| Failure::Usage(anyhow!("{of} {reason}: name another --position file"));
        Self::parse(&text, options).map(Some).map_err(wrong)
    }

    /// The same, and keeps the position in the file from now on.
    pub(super) fn keep(mut self, journal: Journal) -> Result<Self, Failure> {
        self.journal = Some(journal);
        self.write_anew()?;
        Ok(self)
    }

    /// Reads the lines of a file. A kill may have cut off the last one.
    fn parse(text: &str, options: &Options) -> Result<Self, String> {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        let plan = lines.next().and_then(|line| line.strip_prefix("replay "));
        let plan: Option<Plan> = plan.and_then(|plan| serde_json::from_str(plan).ok());
        let plan = plan.ok_or("is no position of a replay")?;
        if let Some((stored, given)) = plan.options.difference(options) {
            return Err(format!("has the position of a replay with {stored}, and this one has {given}"));
        }
        let mut position = Self { plan, next: None, sent: BTreeMap::new(), journal: None };
        for line in lines {
            let (word, number) = line.split_once(' ').unwrap_or_default();
            let number: u64 = number.parse().map_err(|_| format!("has the line {line:?}"))?;
            match word {
                "next" => position.next = Some(number),
                "sent" => drop(position.sent.entry(number).or_insert(false)),
                "confirmed" => drop(position.sent.insert(number, true)),
                _ => return Err(format!("has the line {line:?}")),
            }
        }
        position.forget();
        Ok(position)
    }

    /// The place to read on from.
    pub(super) fn place(&self) -> Place {
        self.next.map_or(self.plan.start, Place::Offset)
    }

    /// The last event of the replay.
    pub(super) fn end(&self) -> u64 {
        self.plan.end
    }

    /// True if no event is left.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.place(), Place::Offset(offset) if offset > self.plan.end)
    }

    /// True if the event is not before the start of the replay.
    pub(super) fn includes(&self, event: &LoggedEvent) -> bool {
        self.plan.start.includes(event)
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
        format!("{}-{offset}", self.plan.id)
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
        let plan = serde_json::to_string(&self.plan).context("encoding the position of the replay")?;
        let mut text = format!("replay {plan}\n");
        text.extend(self.next.map(|next| format!("next {next}\n")));
        for (offset, confirmed) in &self.sent {
            text.push_str(&format!("{} {offset}\n", if *confirmed { "confirmed" } else { "sent" }));
        }
        let (path, new) = (journal.path.as_path(), beside(&journal.path));
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

/// The file that takes the place of another one.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".leveret-new");
    name.into()
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

    fn options() -> Options {
        let [vhost, namespace, to, from] = ["/", "leveret.v1", "audit", "1h"].map(str::to_owned);
        Options { vhost, namespace, to, from, topic: Some("order.*".to_owned()), again: false }
    }

    /// The position of a run that would publish the events from `start` to `end` if it were the first.
    fn keep_from(path: &Path, start: Place, end: u64) -> Position {
        let journal = Journal::open(path).unwrap();
        let known = Position::read(path, &options()).unwrap();
        known.unwrap_or_else(|| Position::new(options(), start, end)).keep(journal).unwrap()
    }

    fn keep(path: &Path) -> Position {
        keep_from(path, Place::First, u64::MAX)
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
    fn a_later_run_has_the_start_and_the_end_of_the_first_and_is_done_after_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let places = |position: &Position| (position.plan.start, position.place(), position.end(), position.is_done());
        let (start, later) = (Place::Time(7_000), Place::Time(8_000));
        assert_eq!(places(&keep_from(&path, start, 9)), (start, start, 9, false));
        let mut second = keep_from(&path, later, 12);
        assert_eq!(places(&second), (start, start, 9, false));
        second.reached(9, true).unwrap();
        drop(second);
        let mut third = keep_from(&path, later, 12);
        assert_eq!(places(&third), (start, Place::Offset(9), 9, false));
        third.reached(10, true).unwrap();
        drop(third);
        assert_eq!(places(&keep_from(&path, later, 12)), (start, Place::Offset(10), 9, true));
        assert!(Position::new(options(), Place::Offset(10), 9).is_done(), "it starts after the newest event");
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
    fn a_file_of_another_replay_or_of_one_that_runs_is_refused_with_the_difference_and_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let running = keep(&path);
        let locked = Journal::open(&path).unwrap_err().error().to_string();
        assert!(locked.contains("another replay") && locked.contains("name another"), "{locked}");
        drop(running);
        let changed = |change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            options
        };
        for (options, difference) in [
            (changed(|it| it.vhost = "shop".to_owned()), "vhost /, and this one has vhost shop"),
            (changed(|it| it.namespace = "ns".to_owned()), "--namespace leveret.v1, and this one has --namespace ns"),
            (changed(|it| it.to = "mail".to_owned()), "--to audit, and this one has --to mail"),
            (changed(|it| it.from = "2h".to_owned()), "--from 1h, and this one has --from 2h"),
            (changed(|it| it.topic = None), "--topic order.*, and this one has no --topic"),
            (changed(|it| it.again = true), "no --again, and this one has --again"),
        ] {
            let refused = Position::read(&path, &options).unwrap_err().error().to_string();
            let expected = format!("replay with {difference}: name another --position file");
            assert!(refused.ends_with(&expected), "{refused}");
        }
        for other in ["41\n", "replay 0190 to audit of order.*\n"] {
            std::fs::write(&path, other).unwrap();
            let refused = Position::read(&path, &options()).unwrap_err().error().to_string();
            assert!(refused.ends_with("is no position of a replay: name another --position file"), "{refused}");
        }
    }

    #[test]
    fn a_file_is_replaced_by_one_that_no_other_replay_uses() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert_ne!(beside(&path("replay.warehouse")), beside(&path("replay.mail")));
        let mut position = keep(&path("replay.new"));
        position.sending(3).unwrap();
        drop(position);
        assert_eq!(keep(&path("replay.new")).in_doubt(), [3]);
    }
}
