//! The audit of the fault suite: every job whose publish was confirmed must be accounted for, and every job whose effect
//! was done twice must have a reason that the guarantees name.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use crate::load::{Line, What, end_of, is_delayed};

/// Everything known of a load's jobs.
#[derive(Debug, Default)]
pub struct Audit {
    jobs: HashMap<String, Record>,
}

#[derive(Debug, Default)]
struct Record {
    confirmed_us: Option<u64>,
    /// Its publisher had to repeat a publish that was not confirmed.
    repeated: bool,
    starts: Vec<Start>,
    done: usize,
    /// Its dead letters, with their kind.
    dead: Vec<String>,
    /// Copies in the queue of unrouted messages.
    unrouted: usize,
}

#[derive(Debug)]
struct Start {
    process: u32,
    attempt: u32,
    redelivered: bool,
    from_us: u64,
    until_us: Option<u64>,
    is_done: bool,
}

/// The cause of a repeated effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A delivery was lost with its connection, channel, worker or leader after its effect and before its ack.
    Redelivered,
    /// Its publisher repeated a publish whose confirm was lost.
    PublishRepeated,
    /// A retry, a delayed job or a dead letter was copied twice: its confirm was lost, or the ladder repeated a hop.
    CopyRepeated,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redelivered => "redelivered",
            Self::PublishRepeated => "publish repeated",
            Self::CopyRepeated => "copy repeated",
        })
    }
}

/// The result of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Jobs whose publish was confirmed.
    pub published: usize,
    /// Of these, done at least once.
    pub done: usize,
    /// Of these, dead-lettered, by kind.
    pub dead: BTreeMap<String, usize>,
    /// Of these, in the queue of unrouted messages.
    pub unrouted: usize,
    /// Of these, nowhere.
    pub lost: Vec<String>,
    /// Of these, ended differently than their ids state.
    pub misplaced: Vec<String>,
    /// Jobs that one process ran again after it had done them, on a redelivery.
    pub again: Vec<String>,
    /// Jobs whose effect was done more than once.
    pub duplicates: BTreeMap<Cause, usize>,
    /// Jobs whose effect was done more than once for no reason that is known, with their history.
    pub unexplained: Vec<String>,
    /// Jobs of which one process ran the same attempt twice at a time, which redelivery tracking must prevent; likewise.
    pub overlapping: Vec<String>,
}

impl Audit {
    /// Adds a line of the workers' or the publishers' files.
    pub fn read(&mut self, line: &Line) {
        let record = self.jobs.entry(line.id.clone()).or_default();
        match line.what {
            What::Confirmed => record.confirmed_us = record.confirmed_us.or(Some(line.at_us)),
            What::Uncertain => record.repeated = true,
            What::Refused => {}
            What::Start => record.starts.push(Start {
                process: line.process,
                attempt: line.attempt,
                redelivered: line.redelivered,
                from_us: line.at_us,
                until_us: None,
                is_done: false,
            }),
            What::Done | What::Fail | What::Cut => {
                record.done += usize::from(line.what == What::Done);
                let mut open = record.starts.iter_mut().filter(|start| start.until_us.is_none());
                if let Some(start) = open.find(|start| start.process == line.process && start.attempt == line.attempt) {
                    start.until_us = Some(line.at_us);
                    start.is_done = line.what == What::Done;
                }
            }
        }
    }

    /// Adds a dead letter.
    pub fn dead(&mut self, id: &str, kind: &str) {
        self.jobs.entry(id.to_owned()).or_default().dead.push(kind.to_owned());
    }

    /// Adds an unrouted message.
    pub fn unrouted(&mut self, id: &str) {
        self.jobs.entry(id.to_owned()).or_default().unrouted += 1;
    }

    /// The jobs that were published and have not come to an end, with the time of their confirm.
    pub fn open(&self) -> impl Iterator<Item = (&str, u64)> {
        self.jobs
            .iter()
            .filter(|(_, record)| !record.has_ended())
            .filter_map(|(id, record)| record.confirmed_us.map(|at| (id.as_str(), at)))
    }

    /// The jobs whose publish was confirmed.
    pub fn confirmed(&self) -> impl Iterator<Item = &str> {
        self.jobs.iter().filter(|(_, record)| record.confirmed_us.is_some()).map(|(id, _)| id.as_str())
    }

    /// The number of jobs with an attempt that began and did not end, as those of a killed process.
    #[must_use]
    pub fn cut_off(&self) -> usize {
        let is_cut = |record: &&Record| record.starts.iter().any(|start| start.until_us.is_none());
        self.jobs.values().filter(is_cut).count()
    }

    /// Returns whether a job may be on its way without a confirm: its publisher does not know, and does not repeat it.
    #[must_use]
    pub fn has_doubts(&self) -> bool {
        self.jobs.values().any(|record| record.repeated && record.confirmed_us.is_none() && !record.has_ended())
    }

    /// True once a job has ended.
    #[must_use]
    pub fn has_ended(&self, id: &str) -> bool {
        self.jobs.get(id).is_some_and(Record::has_ended)
    }

    /// The history of a job as text.
    #[must_use]
    pub fn history(&self, id: &str) -> String {
        format!("{id}: {:?}", self.jobs.get(id))
    }

    /// The number of jobs with a publish whose confirm was lost.
    #[must_use]
    pub fn repeated(&self) -> usize {
        self.jobs.values().filter(|record| record.repeated).count()
    }

    /// The number of published jobs.
    #[must_use]
    pub fn published(&self) -> usize {
        self.jobs.values().filter(|record| record.confirmed_us.is_some()).count()
    }

    /// Judges. Jobs whose publish was never confirmed count for duplicates only.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        for (id, record) in &self.jobs {
            if record.confirmed_us.is_some() {
                verdict.count(id, record);
            }
            if record.done + record.dead.len() > 1 {
                match record.cause(is_delayed(id)) {
                    Some(cause) => *verdict.duplicates.entry(cause).or_default() += 1,
                    None => verdict.unexplained.push(format!("{id}: {record:?}")),
                }
            }
            if record.was_run_again(is_delayed(id)) {
                verdict.again.push(format!("{id}: {record:?}"));
            }
            if record.overlaps(is_delayed(id)) {
                verdict.overlapping.push(format!("{id}: {record:?}"));
            }
        }
        verdict
    }
}

impl Verdict {
    fn count(&mut self, id: &str, record: &Record) {
        self.published += 1;
        let well = if record.done > 0 {
            self.done += 1;
            end_of(id) == "done"
        } else if let Some(kind) = record.dead.first() {
            *self.dead.entry(kind.clone()).or_default() += 1;
            matches!(
                (end_of(id), kind.as_str()),
                ("given_up", "permanent") | ("abort", "crash_loop") | ("bad", "error")
            )
        } else if record.unrouted > 0 {
            self.unrouted += 1;
            true
        } else {
            self.lost.push(id.to_owned());
            true
        };
        if !well {
            self.misplaced.push(format!("{id}: {record:?}"));
        }
    }
}

impl Record {
    fn has_ended(&self) -> bool {
        self.done > 0 || !self.dead.is_empty() || self.unrouted > 0
    }

    fn cause(&self, is_delayed: bool) -> Option<Cause> {
        if self.repeated {
            return Some(Cause::PublishRepeated);
        }
        let runs = |attempt| self.starts.iter().filter(move |start| start.attempt == attempt);
        let again = |start: &&Start| start.redelivered && runs(start.attempt).count() > 1;
        if self.starts.iter().any(|start| again(&start)) {
            return Some(Cause::Redelivered);
        }
        if self.dead.len() > 1 {
            return Some(Cause::CopyRepeated);
        }
        let copied = |start: &&Start| (is_delayed || start.attempt > 1) && runs(start.attempt).count() > 1;
        self.starts.iter().find(copied).map(|_| Cause::CopyRepeated)
    }

    /// The starts of a message that there is one of: retries and delays may have been copied twice, and each copy may be
    /// delivered again for itself.
    fn only_copies(&self, is_delayed: bool) -> impl Iterator<Item = &Start> {
        self.starts.iter().filter(move |start| start.attempt == 1 && !is_delayed && !self.repeated)
    }

    /// A process remembers its completed jobs. It acks a redelivery of one without a second run.
    fn was_run_again(&self, is_delayed: bool) -> bool {
        let done_before = |later: &Start| {
            self.starts.iter().any(|first| {
                let same = first.process == later.process && first.attempt == later.attempt;
                same && first.is_done && first.until_us.is_some_and(|until| until < later.from_us)
            })
        };
        self.only_copies(is_delayed).any(|start| start.redelivered && done_before(start))
    }

    /// A delivery and its own redelivery must not run beside each other.
    fn overlaps(&self, is_delayed: bool) -> bool {
        let beside = |later: &Start| {
            self.starts.iter().any(|first| {
                let same = first.process == later.process && first.attempt == later.attempt;
                let running = first.until_us.is_none_or(|until| until > later.from_us);
                same && first.from_us < later.from_us && running
            })
        };
        self.only_copies(is_delayed).any(|start| start.redelivered && beside(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(lines: &[&str]) -> Audit {
        let mut audit = Audit::default();
        for line in lines {
            audit.read(&line.parse().unwrap());
        }
        audit
    }

    #[test]
    fn a_confirmed_job_is_done_or_dead_or_unrouted_or_lost() {
        let mut audit = audit(&[
            "1 confirmed 9 1 false 0 done.now.a",
            "2 start 7 1 false 0 done.now.a",
            "3 done 7 1 false 0 done.now.a",
            "1 confirmed 9 1 false 0 given_up.now.b",
            "1 confirmed 9 1 false 0 done.now.c",
            "1 confirmed 9 1 false 0 done.now.d",
            "1 uncertain 9 1 false 0 never-confirmed",
        ]);
        audit.dead("given_up.now.b", "permanent");
        audit.unrouted("done.now.c");
        let verdict = audit.verdict();
        assert_eq!((verdict.published, verdict.done, verdict.unrouted), (4, 1, 1));
        assert_eq!(verdict.dead, BTreeMap::from([("permanent".to_owned(), 1)]));
        assert_eq!(verdict.lost, ["done.now.d"]);
        assert!(verdict.misplaced.is_empty());
        assert_eq!(audit.open().collect::<Vec<_>>(), [("done.now.d", 1)]);
        assert!(verdict.duplicates.is_empty() && verdict.unexplained.is_empty());
    }

    #[test]
    fn a_duplicate_has_a_cause_or_is_unexplained() {
        let twice = |extra: &[&str], second: &str| {
            let lines = [
                &["1 start 7 1 false 0 done.now.a", "2 done 7 1 false 0 done.now.a"],
                extra,
                &[second, "4 done 8 1 false 0 done.now.a"],
            ];
            audit(&lines.concat()).verdict()
        };
        let verdict = twice(&[], "3 start 8 1 true 0 done.now.a");
        assert_eq!(verdict.duplicates, BTreeMap::from([(Cause::Redelivered, 1)]));
        let verdict = twice(&["1 uncertain 9 1 false 0 done.now.a"], "3 start 8 1 false 0 done.now.a");
        assert_eq!(verdict.duplicates, BTreeMap::from([(Cause::PublishRepeated, 1)]));
        let verdict = twice(&[], "3 start 8 1 false 0 done.now.a");
        assert_eq!(verdict.unexplained.len(), 1);
        let ladder = [
            "1 start 7 1 false 0 done.delayed.1",
            "2 done 7 1 false 0 done.delayed.1",
            "3 start 7 1 false 0 done.delayed.1",
            "4 done 7 1 false 0 done.delayed.1",
        ];
        assert_eq!(audit(&ladder).verdict().duplicates, BTreeMap::from([(Cause::CopyRepeated, 1)]));
        let verdict = audit(&[
            "1 start 7 1 false 0 done.now.a",
            "2 fail 7 1 false 0 done.now.a",
            "3 start 7 2 false 0 done.now.a",
            "4 done 7 2 false 0 done.now.a",
            "5 start 8 2 false 0 done.now.a",
            "6 done 8 2 false 0 done.now.a",
        ])
        .verdict();
        assert_eq!(verdict.duplicates, BTreeMap::from([(Cause::CopyRepeated, 1)]));
    }

    #[test]
    fn an_attempt_that_is_started_beside_itself_in_one_process_is_found() {
        let beside =
            ["1 start 7 1 false 0 done.now.a", "2 start 7 1 true 0 done.now.a", "3 done 7 1 false 0 done.now.a"];
        assert_eq!(audit(&beside).verdict().overlapping.len(), 1);
        let after = ["1 start 7 1 false 0 done.now.a", "2 cut 7 1 false 0 done.now.a", "3 start 7 1 true 0 done.now.a"];
        assert!(audit(&after).verdict().overlapping.is_empty());
        let elsewhere = ["1 start 7 1 false 0 done.now.a", "2 start 8 1 true 0 done.now.a"];
        assert!(audit(&elsewhere).verdict().overlapping.is_empty());
    }

    #[test]
    fn a_job_must_end_as_it_was_meant_to() {
        let mut audit = audit(&["1 confirmed 9 1 false 0 done.now.a", "1 confirmed 9 1 false 0 given_up.now.b"]);
        audit.dead("done.now.a", "decode");
        audit.dead("given_up.now.b", "timeout");
        let verdict = audit.verdict();
        assert_eq!((verdict.lost.len(), verdict.misplaced.len()), (0, 2));
    }

    #[test]
    fn a_process_that_runs_again_what_it_has_done_is_found() {
        let first = ["1 start 7 1 false 0 done.now.a", "2 done 7 1 false 0 done.now.a"];
        let again = [first.as_slice(), &["3 start 7 1 true 0 done.now.a"]].concat();
        assert_eq!(audit(&again).verdict().again.len(), 1);
        let elsewhere = [first.as_slice(), &["3 start 8 1 true 0 done.now.a"]].concat();
        assert!(audit(&elsewhere).verdict().again.is_empty());
    }
}
