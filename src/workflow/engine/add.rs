//! Steps that a running step adds.

use super::{
    Action,
    snapshot::Snapshot,
    state::{StepPhase, StepState},
};
use crate::workflow::{WorkflowError, definition::Steps};

impl Snapshot {
    /// Adds steps that `adder` returned with its success, and starts those that can start.
    pub(super) fn add_steps(
        &mut self,
        adder: &str,
        add: &Steps,
        actions: &mut Vec<Action>,
    ) -> Result<(), WorkflowError> {
        add.check_added_by(adder)?;
        self.check_places(add)?;
        for (name, step) in add.iter() {
            self.insert_step(StepState::new(name, step), step.clone());
            self.edit().unfinished += 1;
        }
        for (name, step) in add.iter() {
            let mut blockers = 0;
            for after in &step.after {
                // The adder itself has ended, unless it is a group.
                let before = self.edit_step(after).filter(|before| !has_ended(before));
                if let Some(before) = before {
                    before.successors.push(name.to_owned());
                    blockers += 1;
                }
            }
            for next in &step.before {
                self.block(next, name);
            }
            let next = step.before.clone();
            if let Some(row) = self.edit_step(name) {
                row.blockers = blockers;
                row.successors.extend(next);
            }
        }
        let has_compensations = add.iter().any(|(_, step)| step.compensate.is_some());
        self.edit().has_compensations |= has_compensations;
        for (name, _) in add.iter() {
            if self.step(name).is_some_and(|step| step.blockers == 0 && step.phase == StepPhase::Blocked) {
                self.start_or_hold(name, actions);
            }
        }
        Ok(())
    }

    /// Makes a step that has not started wait for one more.
    fn block(&mut self, name: &str, added: &str) {
        let Some(step) = self.edit_step(name) else { return };
        step.blockers += 1;
        step.after.push(added.to_owned());
        if step.phase == StepPhase::Held {
            step.phase = StepPhase::Blocked;
            self.edit().held -= 1;
        }
    }

    /// Checks the names of the steps against those of the workflow.
    fn check_places(&self, add: &Steps) -> Result<(), WorkflowError> {
        for (name, step) in add.iter() {
            if self.step(name).is_some() {
                return Err(WorkflowError::TwoOfOneName { step: name.to_owned() });
            }
            for before in &step.before {
                let (step, before) = (name.to_owned(), before.clone());
                match self.step(&before).map(|row| row.phase) {
                    Some(StepPhase::Blocked | StepPhase::Held) => {}
                    Some(_) => return Err(WorkflowError::HasStarted { step, before }),
                    None => {
                        let known = "the steps of the workflow".to_owned();
                        return Err(WorkflowError::UnknownStep { step, relation: "before", unknown: before, known });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns whether all jobs of a step that adds have ended, its own end included.
fn has_ended(step: &StepState) -> bool {
    matches!(step.phase, StepPhase::Ended | StepPhase::Failed) || step.has_ended_well()
}
