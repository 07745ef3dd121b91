//! Compensations, in the reverse order of the successes, and the job that runs once a workflow has failed.

use super::{
    Action, Refusal,
    snapshot::Snapshot,
    state::{Failure, Phase, StepState, Stop, Undo},
};
use crate::{
    message::step::Role,
    time::unix_ms,
    workflow::end::{StepEnd, StepOutcome},
};

impl Snapshot {
    /// Publishes the next compensation or the job of `on_failure`, or ends the workflow. One such job runs at a time.
    pub(super) fn undo_next(&mut self, actions: &mut Vec<Action>) {
        let state = &self.workflow;
        if state.paused || state.alarm.is_some() || state.running > 0 {
            return;
        }
        let due = self.steps.values().flatten().filter(|step| step.is_compensable());
        let next = due.max_by_key(|step| step.last_success).map(|step| step.name.clone());
        let has_failed = matches!(state.stop, Some(Stop::Failed | Stop::FailedForGood));
        let on_failure = has_failed && state.on_failure == Undo::Ready;
        if let Some(step) = next {
            self.edit().compensable -= 1;
            self.publish_compensation(&step, actions);
        } else if on_failure {
            self.publish_on_failure(actions);
        } else {
            let state = self.edit();
            state.phase = Phase::Ended;
            actions.push(Action::Ended(state.status()));
        }
    }

    pub(super) fn publish_compensation(&mut self, name: &str, actions: &mut Vec<Action>) {
        let Some(step) = self.edit_step(name) else { return };
        step.undo = Undo::Running;
        let life = step.undo_life;
        let state = self.edit();
        (state.is_undone, state.undoing, state.undo_replayed_at) = (true, Some(name.to_owned()), 0);
        state.running += 1;
        actions.push(Action::Compensate { step: name.to_owned(), life });
        // The store still lists this step as due for compensation.
        self.lists.remove(&super::Load::Compensable);
    }

    pub(super) fn publish_on_failure(&mut self, actions: &mut Vec<Action>) {
        let state = self.edit();
        (state.is_undone, state.undoing, state.on_failure) = (true, None, Undo::Running);
        state.undo_replayed_at = 0;
        state.running += 1;
        actions.push(Action::OnFailure { life: state.on_failure_life });
    }

    /// Records the end of a compensation or of the job of `on_failure`.
    pub(super) fn end_undo(&mut self, end: &StepEnd, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let (undo, life) = match end.of.role {
            Role::OnFailure => (self.workflow.on_failure, self.workflow.on_failure_life),
            Role::Compensation | Role::Step => {
                let of = |step: &StepState| (step.undo, step.undo_life);
                self.step(&end.of.step).map(of).ok_or(Refusal::UnknownStep)?
            }
        };
        // A failed compensation whose dead letter was replayed ends a second time.
        let replayed_at = end.replayed_at.map_or(0, unix_ms);
        let is_replay = undo == Undo::Dead && replayed_at > self.workflow.undo_replayed_at;
        if life != end.of.life || !(undo == Undo::Running || is_replay) {
            return Err(Refusal::Late);
        }
        if undo == Undo::Running {
            self.edit().running -= 1;
        }
        let failure = match &end.outcome {
            StepOutcome::Completed { .. } => None,
            StepOutcome::Failed { kind, error } => Some((kind.clone(), error.clone())),
            StepOutcome::Cancelled => Some(("cancelled".to_owned(), "the job was cancelled".to_owned())),
        };
        self.set_undo(end.of.role, &end.of.step, if failure.is_some() { Undo::Dead } else { Undo::Done });
        let alarm = failure.map(|(kind, error)| Failure { of: end.of.to_string(), kind, error });
        if let Some(alarm) = &alarm {
            actions.push(Action::Alarm(alarm.clone()));
        }
        let state = self.edit();
        (state.alarm, state.undo_replayed_at) = (alarm, replayed_at);
        Ok(())
    }

    pub(super) fn set_undo(&mut self, role: Role, step: &str, undo: Undo) {
        if role == Role::OnFailure {
            self.edit().on_failure = undo;
        } else if let Some(step) = self.edit_step(step) {
            step.undo = undo;
        }
    }
}
