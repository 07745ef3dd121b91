//! The reference for the engine's tests: an interpreter of definitions that computes the whole state anew after each
//! input.

use super::{Status, Waiting};
use crate::workflow::IfFailed;

#[derive(Clone, Debug)]
pub(super) struct Def {
    pub(super) after: Vec<usize>,
    /// `None` for a step that is no group.
    pub(super) group: Option<u32>,
    pub(super) if_failed: IfFailed,
    pub(super) compensate: bool,
}

/// A job: a step's by index and member, or what undoes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Job {
    Step(usize, u32),
    Undo(usize),
    OnFailure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unstarted,
    Running,
    Completed,
    Failed,
    Skipped,
    Cancelled,
}

/// The interpreter.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) defs: Vec<Def>,
    pub(super) members: Vec<Vec<State>>,
    pub(super) started: Vec<bool>,
    pub(super) paused: bool,
    pub(super) cancelled: bool,
    pub(super) late: bool,
    pub(super) ended: bool,
    /// The steps in the order of their successes, each once for each success.
    pub(super) successes: Vec<usize>,
    pub(super) on_failure: bool,
    pub(super) undone: Vec<Job>,
    pub(super) undoing: Option<Job>,
    pub(super) alarm: bool,
}

impl Model {
    pub(super) fn new(defs: Vec<Def>, on_failure: bool) -> Self {
        let members = defs.iter().map(|def| vec![State::Unstarted; def.group.unwrap_or(1) as usize]).collect();
        Self {
            started: vec![false; defs.len()],
            defs,
            members,
            paused: false,
            cancelled: false,
            late: false,
            ended: false,
            successes: Vec::new(),
            on_failure,
            undone: Vec::new(),
            undoing: None,
            alarm: false,
        }
    }

    pub(super) fn running(&self) -> Vec<Job> {
        let steps = self.members.iter().enumerate().flat_map(|(step, members)| {
            let running = members.iter().enumerate().filter(|(_, state)| **state == State::Running);
            running.map(move |(member, _)| Job::Step(step, member as u32))
        });
        steps.chain(self.undoing.clone().filter(|_| !self.alarm)).collect()
    }

    pub(super) fn is_good(&self, step: usize) -> bool {
        self.started[step]
            && self.members[step].iter().all(|state| match state {
                State::Completed | State::Skipped => true,
                State::Failed => self.defs[step].if_failed == IfFailed::Skip,
                State::Unstarted | State::Running | State::Cancelled => false,
            })
    }

    pub(super) fn any_failed(&self, mode: IfFailed) -> bool {
        (0..self.defs.len())
            .any(|step| self.defs[step].if_failed == mode && self.members[step].contains(&State::Failed))
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.cancelled || self.late || self.any_failed(IfFailed::Fail)
    }

    pub(super) fn status(&self) -> Status {
        match () {
            () if self.ended && self.cancelled => Status::Cancelled,
            () if self.ended && self.is_stopping() => Status::Failed,
            () if self.ended => Status::Completed,
            () if self.alarm => Status::Waiting(Waiting::Operator),
            () if self.paused => Status::Waiting(Waiting::Pause),
            () if !self.is_stopping() && self.any_failed(IfFailed::Wait) => Status::Waiting(Waiting::Operator),
            () => Status::Running,
        }
    }

    /// Starts all that can start, and returns it.
    pub(super) fn advance(&mut self) -> Vec<Job> {
        let mut published = Vec::new();
        while !self.ended && !self.is_stopping() {
            let can = |step: &usize| {
                !self.paused
                    && !self.started[*step]
                    && self.defs[*step].after.iter().all(|before| self.is_good(*before))
            };
            let Some(step) = (0..self.defs.len()).find(can) else {
                self.ended = (0..self.defs.len()).all(|step| self.is_good(step));
                return published;
            };
            self.started[step] = true;
            for member in 0..self.members[step].len() {
                self.members[step][member] = State::Running;
                published.push(Job::Step(step, member as u32));
            }
        }
        if !self.ended && !self.paused && !self.alarm && self.running().is_empty() {
            let due = self
                .successes
                .iter()
                .rev()
                .find(|step| self.defs[**step].compensate && !self.undone.contains(&Job::Undo(**step)));
            let next = match due {
                Some(step) => Some(Job::Undo(*step)),
                None if self.on_failure && !self.cancelled && !self.undone.contains(&Job::OnFailure) => {
                    Some(Job::OnFailure)
                }
                None => None,
            };
            self.ended = next.is_none();
            self.undoing.clone_from(&next);
            self.undone.extend(next.clone());
            published.extend(next);
        }
        published
    }

    pub(super) fn end(&mut self, job: &Job, outcome: u8) {
        let Job::Step(step, member) = job else {
            self.alarm = outcome != 0;
            if !self.alarm {
                self.undoing = None;
            }
            return;
        };
        self.members[*step][*member as usize] = match outcome {
            0 => State::Completed,
            2 if self.cancelled || self.late => State::Cancelled,
            _ => State::Failed,
        };
        if outcome == 0 {
            self.successes.push(*step);
        }
    }

    /// Returns the failed jobs that can still be retried or skipped.
    pub(super) fn revivable(&self) -> Vec<Job> {
        if self.cancelled || self.late || !self.undone.is_empty() {
            return Vec::new();
        }
        let steps = (0..self.defs.len()).filter(|step| self.defs[*step].if_failed != IfFailed::Skip);
        let failed = steps.flat_map(|step| {
            let members = self.members[step].iter().enumerate();
            members.filter(|(_, state)| **state == State::Failed).map(move |(member, _)| Job::Step(step, member as u32))
        });
        failed.collect()
    }

    pub(super) fn has_compensations(&self) -> bool {
        self.defs.iter().any(|def| def.compensate)
    }
}
