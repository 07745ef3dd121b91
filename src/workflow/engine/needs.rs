//! The rows that an input needs.

use super::{
    Input, Load, Which,
    snapshot::Snapshot,
    state::{MemberEnd, Phase, StepPhase},
};
use crate::{
    message::step::Role,
    workflow::end::{StepEnd, StepOutcome},
};

impl Snapshot {
    /// Returns the rows that an input needs and that are not here. Rows that are named may lead to further ones.
    pub(super) fn missing(&self, input: &Input) -> Vec<Load> {
        let mut needs = Needs { of: self, loads: Vec::new() };
        if self.is_complete {
            return needs.loads;
        }
        match input {
            Input::End(end) if end.of.role == Role::OnFailure => {}
            Input::End(end) if end.of.role == Role::Compensation => needs.step(&end.of.step),
            Input::End(end) => needs.end(end),
            Input::Pause | Input::Cancel | Input::DeadlinePassed => {}
            Input::Resume => needs.held(),
            Input::Retry(which) | Input::Skip(which) => needs.command(which, matches!(input, Input::Skip(_))),
        }
        if self.may_undo(input) {
            needs.undo();
        }
        needs.loads
    }

    /// Returns whether compensations may run after this input.
    fn may_undo(&self, input: &Input) -> bool {
        match input {
            Input::Pause => false,
            Input::Resume => self.workflow.phase != Phase::Running,
            Input::End(StepEnd { outcome: StepOutcome::Completed { add, .. }, .. }) if add.is_empty() => {
                self.workflow.phase != Phase::Running
            }
            Input::End(_) | Input::Cancel | Input::DeadlinePassed | Input::Retry(_) | Input::Skip(_) => true,
        }
    }
}

struct Needs<'a> {
    of: &'a Snapshot,
    loads: Vec<Load>,
}

impl Needs<'_> {
    fn need(&mut self, load: Load) {
        if !self.loads.contains(&load) {
            self.loads.push(load);
        }
    }

    fn step(&mut self, name: &str) {
        if !self.of.steps.contains_key(name) {
            self.need(Load::Step(name.to_owned()));
        }
    }

    fn list(&mut self, list: Load) {
        if !self.of.lists.contains(&list) {
            self.need(list);
        }
    }

    fn end(&mut self, end: &StepEnd) {
        let (name, at) = (&end.of.step, end.of.member.unwrap_or(0));
        self.step(name);
        if self.of.member(name, at).is_none() {
            self.need(Load::Member(name.clone(), at));
        }
        let Some(step) = self.of.step(name) else { return };
        let ended = step.completed + step.failed + step.skipped + step.cancelled;
        if ended + 1 >= step.size {
            self.successors(name);
        }
        if let StepOutcome::Completed { add, .. } = &end.outcome
            && add.check_added_by(name).is_ok()
        {
            for (name, step) in add.iter() {
                self.step(name);
                step.before.iter().for_each(|before| self.step(before));
            }
        }
        // The replay of a dead letter may let the workflow go on.
        let has_failed = self.of.member(name, at).is_some_and(|row| matches!(row.end, Some(MemberEnd::Failed { .. })));
        if has_failed && end.replayed_at.is_some() {
            self.held();
            self.successors(name);
        }
    }

    /// The steps after a step; and after those without jobs, which end at once.
    fn successors(&mut self, name: &str) {
        let (mut steps, mut seen) = (vec![name.to_owned()], std::collections::HashSet::new());
        while let Some(name) = steps.pop() {
            let Some(step) = self.of.step(&name) else { continue };
            for next in &step.successors {
                self.step(next);
                if self.of.step(next).is_some_and(|step| step.size == 0) && seen.insert(next.clone()) {
                    steps.push(next.clone());
                }
            }
        }
    }

    fn held(&mut self) {
        if self.of.workflow.held == 0 {
            return;
        }
        self.list(Load::Held);
        let held = self.of.steps.values().flatten().filter(|step| step.phase == StepPhase::Held && step.size == 0);
        for name in held.map(|step| step.name.clone()).collect::<Vec<_>>() {
            self.successors(&name);
        }
    }

    fn command(&mut self, which: &Which, is_skip: bool) {
        if self.of.workflow.alarm.is_some() {
            if let Some(step) = &self.of.workflow.undoing {
                self.step(step);
            }
            return;
        }
        match which {
            Which::All => self.list(Load::Failed(None)),
            Which::Step(step) => {
                self.step(step);
                self.list(Load::Failed(Some(step.clone())));
            }
            Which::Member(step, at) => {
                self.step(step);
                if self.of.member(step, *at).is_none() {
                    self.need(Load::Member(step.clone(), *at));
                }
            }
        }
        let failed = self.of.members.iter().filter(|(_, row)| matches!(row.end, Some(MemberEnd::Failed { .. })));
        let steps: std::collections::HashSet<_> = failed.map(|((step, _), _)| step.clone()).collect();
        for step in steps {
            self.step(&step);
            if is_skip {
                self.successors(&step);
            }
        }
        self.held();
    }

    /// Requests the next compensation, if this input may be the last one before it.
    fn undo(&mut self) {
        let state = &self.of.workflow;
        if state.compensable > 0 && state.running <= 1 && state.phase != Phase::Ended {
            self.list(Load::Compensable);
        }
    }
}
