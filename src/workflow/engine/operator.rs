//! The commands of an operator: failed jobs are retried, or the workflow goes on without them.

use super::{
    Action, Refusal, Which,
    snapshot::{MemberKey, Snapshot},
    state::{MemberEnd, Phase, Undo},
};
use crate::message::step::Role;

impl Snapshot {
    pub(super) fn retry(&mut self, which: &Which, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        if self.workflow.alarm.is_some() {
            return self.retry_undo(actions);
        }
        let failed = self.failed(which)?;
        for (step, at) in failed {
            self.forget_failure(&step, at)?;
            let row = self.edit_member(&step, at);
            row.life += 1;
            let life = row.life;
            self.edit().running += 1;
            actions.push(Action::Publish { step, members: at..at + 1, life });
        }
        self.go_on(actions);
        Ok(())
    }

    pub(super) fn skip(&mut self, which: &Which, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        if self.workflow.alarm.is_some() {
            return self.skip_undo();
        }
        let failed = self.failed(which)?;
        let mut steps = Vec::new();
        for (step, at) in failed {
            self.forget_failure(&step, at)?;
            self.edit_member(&step, at).end = Some(MemberEnd::Skipped);
            if let Some(row) = self.edit_step(&step) {
                row.skipped += 1;
            }
            if steps.last() != Some(&step) {
                steps.push(step);
            }
        }
        self.go_on(actions);
        for step in steps {
            self.end_step(&step, actions);
        }
        Ok(())
    }

    /// Lets a stopping workflow run again if it has no failed job left.
    pub(super) fn go_on(&mut self, actions: &mut Vec<Action>) {
        let state = &self.workflow;
        if state.phase == Phase::Stopping && state.failed == 0 && state.stop == Some(super::Stop::Failed) {
            let state = self.edit();
            (state.phase, state.stop, state.cause) = (Phase::Running, None, None);
            self.start_held(actions);
        }
    }

    /// Returns the failed jobs that a command is for, in order, if all of them can go on.
    fn failed(&self, which: &Which) -> Result<Vec<MemberKey>, Refusal> {
        if let Which::Step(step) | Which::Member(step, _) = which {
            self.step(step).ok_or(Refusal::UnknownStep)?;
        }
        let is_of = |(step, at): &MemberKey| match which {
            Which::All => true,
            Which::Step(of) => step == of,
            Which::Member(of, place) => step == of && at == place,
        };
        let has_failed = |key: &MemberKey| matches!(self.members[key].end, Some(MemberEnd::Failed { .. }));
        let waits = |(step, _): &MemberKey| {
            self.step(step).is_some_and(|step| step.if_failed != crate::workflow::IfFailed::Skip)
        };
        let chosen = self.members.keys().filter(|key| is_of(key) && has_failed(key) && waits(key));
        let mut chosen: Vec<_> = chosen.cloned().collect();
        chosen.sort_unstable();
        if chosen.is_empty() {
            return Err(if self.workflow.phase == Phase::Ended && self.workflow.failed == 0 {
                Refusal::HasEnded
            } else {
                Refusal::NothingFailed
            });
        }
        if self.is_final() {
            return Err(Refusal::Final);
        }
        Ok(chosen)
    }

    /// Returns whether no failed job can be retried or skipped any more.
    pub(super) fn is_final(&self) -> bool {
        self.workflow.is_final()
    }

    fn retry_undo(&mut self, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        self.edit().alarm = None;
        match self.workflow.undoing.clone() {
            Some(step) => {
                let row = self.edit_step(&step).ok_or(Refusal::UnknownStep)?;
                row.undo_life += 1;
                self.publish_compensation(&step, actions);
            }
            None => {
                self.edit().on_failure_life += 1;
                self.publish_on_failure(actions);
            }
        }
        Ok(())
    }

    fn skip_undo(&mut self) -> Result<(), Refusal> {
        self.edit().alarm = None;
        match self.workflow.undoing.clone() {
            Some(step) => self.set_undo(Role::Compensation, &step, Undo::Skipped),
            None => self.set_undo(Role::OnFailure, "", Undo::Skipped),
        }
        Ok(())
    }
}
