//! Applies inputs: the ends of jobs, pauses, cancellations and the deadline.

use super::{
    Action, ApplyError, Input, Refusal,
    snapshot::Snapshot,
    state::{Failure, MemberEnd, Phase, StepPhase, Stop},
};
use crate::{
    message::step::Role,
    time::unix_ms,
    workflow::{
        definition::{IfFailed, Steps},
        end::{StepEnd, StepOutcome},
    },
};

impl Snapshot {
    /// Applies an input, and returns what follows from it.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Missing`] if rows are needed first, and [`ApplyError::Refused`] if the input does not fit the state.
    /// In both cases nothing has changed.
    pub fn apply(&mut self, input: &Input) -> Result<Vec<Action>, ApplyError> {
        let missing = self.missing(input);
        if !missing.is_empty() {
            return Err(ApplyError::Missing(missing));
        }
        let mut actions = Vec::new();
        let done = match input {
            Input::End(end) => self.end(end, &mut actions),
            Input::Pause => self.pause(),
            Input::Resume => self.resume(&mut actions),
            Input::Cancel => self.cancel(&mut actions),
            Input::DeadlinePassed => self.pass_deadline(&mut actions),
            Input::Retry(which) => self.retry(which, &mut actions),
            Input::Skip(which) => self.skip(which, &mut actions),
        };
        done.map_err(ApplyError::Refused)?;
        self.settle(&mut actions);
        Ok(actions)
    }

    fn end(&mut self, end: &StepEnd, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        if end.origin != self.workflow.origin {
            return Err(Refusal::Foreign);
        }
        match end.of.role {
            Role::Step => self.end_member(end, actions),
            Role::Compensation | Role::OnFailure => self.end_undo(end, actions),
        }
    }

    fn end_member(&mut self, end: &StepEnd, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let (name, at) = (end.of.step.as_str(), end.of.member.unwrap_or(0));
        let step = self.step(name).filter(|step| at < step.size && step.is_group == end.of.member.is_some());
        let step = step.ok_or(Refusal::UnknownStep)?.clone();
        let row = self.member(name, at).cloned().unwrap_or_default();
        let replayed_at = end.replayed_at.map_or(0, unix_ms);
        if matches!(step.phase, StepPhase::Blocked | StepPhase::Held) || row.life != end.of.life {
            return Err(Refusal::Late);
        }
        let is_replay = row.end.is_some();
        match row.end {
            None => self.edit().running -= 1,
            // The dead letter was replayed: the job ran once more, without a command to this workflow.
            Some(MemberEnd::Failed { .. }) if replayed_at > row.replayed_at => {
                self.forget_failure(name, at)?;
            }
            Some(_) => return Err(Refusal::Late),
        }
        self.edit_member(name, at).replayed_at = replayed_at;
        match &end.outcome {
            StepOutcome::Completed { add, .. } => self.complete(name, at, add, actions),
            StepOutcome::Failed { kind, error } => self.fail(name, at, (kind, error)),
            StepOutcome::Cancelled if self.is_cancelling() => {
                self.edit_member(name, at).end = Some(MemberEnd::Cancelled);
                if let Some(step) = self.edit_step(name) {
                    step.cancelled += 1;
                }
            }
            StepOutcome::Cancelled => self.fail(name, at, ("cancelled", "the job was cancelled")),
        }
        if is_replay {
            self.go_on(actions);
        }
        self.end_step(name, actions);
        Ok(())
    }

    /// Returns whether the jobs of the workflow have been cancelled.
    fn is_cancelling(&self) -> bool {
        matches!(self.workflow.stop, Some(Stop::Cancelled | Stop::FailedForGood))
    }

    fn complete(&mut self, name: &str, at: u32, add: &Steps, actions: &mut Vec<Action>) {
        self.edit_member(name, at).end = Some(MemberEnd::Completed);
        let number = self.workflow.next_success;
        let Some(step) = self.edit_step(name) else { return };
        step.completed += 1;
        step.last_success = number;
        let is_first = step.completed == 1 && step.is_compensable();
        let state = self.edit();
        state.next_success += 1;
        state.compensable += u64::from(is_first);
        if add.is_empty() && add.fault.is_none() {
            return;
        }
        if let Err(fault) = self.add_steps(name, add, actions) {
            let of = self.step(name).map(|step| step.job(&self.workflow.id, at, 1).to_string()).unwrap_or_default();
            let cause = Failure { of, kind: "add_steps".into(), error: fault.to_string() };
            self.fail_for_good(cause, actions);
        }
    }

    fn fail(&mut self, name: &str, at: u32, (kind, error): (&str, &str)) {
        let (kind, error) = (kind.to_owned(), error.to_owned());
        self.edit_member(name, at).end = Some(MemberEnd::Failed { kind: kind.clone(), error: error.clone() });
        let Some(step) = self.edit_step(name) else { return };
        step.failed += 1;
        let if_failed = step.if_failed;
        let of = step.job("", at, 1);
        match if_failed {
            IfFailed::Skip => {}
            IfFailed::Wait => self.edit().waiting += 1,
            IfFailed::Fail => {
                let of = format!("{}{of}", self.workflow.id);
                self.edit().failed += 1;
                self.stop(Stop::Failed, Failure { of, kind, error });
            }
        }
    }

    /// Removes the failure of a job that is retried or was replayed.
    pub(super) fn forget_failure(&mut self, name: &str, at: u32) -> Result<(), Refusal> {
        let if_failed = self.step(name).ok_or(Refusal::UnknownStep)?.if_failed;
        if if_failed == IfFailed::Skip {
            // The workflow went on without it.
            return Err(Refusal::NothingFailed);
        }
        if self.is_final() {
            return Err(Refusal::Final);
        }
        let state = self.edit();
        match if_failed {
            IfFailed::Wait => state.waiting -= 1,
            IfFailed::Fail | IfFailed::Skip => state.failed -= 1,
        }
        if state.phase == Phase::Ended {
            state.phase = Phase::Stopping;
        }
        self.edit_member(name, at).end = None;
        if let Some(step) = self.edit_step(name) {
            step.failed -= 1;
            step.phase = StepPhase::Running;
        }
        Ok(())
    }

    /// Ends a step if all its jobs have ended.
    pub(super) fn end_step(&mut self, name: &str, actions: &mut Vec<Action>) {
        let mut ended = vec![name.to_owned()];
        while let Some(name) = ended.pop() {
            let Some(step) = self.edit_step(&name).filter(|step| step.phase == StepPhase::Running) else { continue };
            if !step.has_ended_well() {
                if step.has_ended() {
                    step.phase = StepPhase::Failed;
                }
                continue;
            }
            step.phase = StepPhase::Ended;
            let successors = step.successors.clone();
            self.edit().unfinished -= 1;
            for next in successors {
                let Some(step) = self.edit_step(&next) else { continue };
                step.blockers = step.blockers.saturating_sub(1);
                if step.blockers == 0 && step.phase == StepPhase::Blocked && self.is_started_empty(&next, actions) {
                    ended.push(next);
                }
            }
        }
    }

    /// Starts a step, or keeps it for later.
    pub(super) fn start_or_hold(&mut self, name: &str, actions: &mut Vec<Action>) {
        if self.is_started_empty(name, actions) {
            self.end_step(name, actions);
        }
    }

    /// Starts a step, or keeps it for later. Returns true if it has started and has no jobs.
    fn is_started_empty(&mut self, name: &str, actions: &mut Vec<Action>) -> bool {
        let may_start = self.workflow.phase == Phase::Running && !self.workflow.paused;
        let Some(step) = self.edit_step(name) else { return false };
        let was_held = step.phase == StepPhase::Held;
        step.phase = if may_start { StepPhase::Running } else { StepPhase::Held };
        let size = step.size;
        let state = self.edit();
        match (was_held, may_start) {
            (true, true) => state.held -= 1,
            (false, false) => state.held += 1,
            _ => {}
        }
        if !may_start {
            return false;
        }
        state.running += u64::from(size);
        if size > 0 {
            actions.push(Action::Publish { step: name.to_owned(), members: 0..size, life: 1 });
        }
        size == 0
    }

    /// Starts the steps that were kept for later.
    pub(super) fn start_held(&mut self, actions: &mut Vec<Action>) {
        if self.workflow.held == 0 || self.workflow.phase != Phase::Running || self.workflow.paused {
            return;
        }
        let held = self.steps.values().flatten().filter(|step| step.phase == StepPhase::Held);
        let mut held: Vec<_> = held.map(|step| step.name.clone()).collect();
        held.sort_unstable();
        for name in held {
            self.start_or_hold(&name, actions);
        }
    }

    /// Makes the workflow stop. The first cause stays.
    pub(super) fn stop(&mut self, stop: Stop, cause: Failure) {
        let state = self.edit();
        if state.phase == Phase::Running {
            state.phase = Phase::Stopping;
        }
        if state.stop.is_none_or(|former| former == Stop::Failed) {
            state.stop = Some(stop);
        }
        state.cause.get_or_insert(cause);
    }

    fn pause(&mut self) -> Result<(), Refusal> {
        if self.workflow.phase == Phase::Ended {
            return Err(Refusal::HasEnded);
        }
        self.edit().paused = true;
        Ok(())
    }

    fn resume(&mut self, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        if self.workflow.phase == Phase::Ended {
            return Err(Refusal::HasEnded);
        }
        self.edit().paused = false;
        self.start_held(actions);
        Ok(())
    }

    fn cancel(&mut self, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        match (self.workflow.phase, self.workflow.stop) {
            (_, Some(Stop::Cancelled)) => return Ok(()),
            (Phase::Running | Phase::Stopping, _) => {}
            (Phase::Compensating | Phase::Ended, _) => return Err(Refusal::HasEnded),
        }
        let state = self.edit();
        (state.phase, state.stop) = (Phase::Stopping, Some(Stop::Cancelled));
        if state.running > 0 {
            actions.push(Action::CancelJobs);
        }
        if !state.has_compensations {
            // No compensation depends on the ends of the running jobs. Those ends are recorded when they arrive.
            state.phase = Phase::Ended;
            actions.push(Action::Ended(state.status()));
        }
        Ok(())
    }

    fn pass_deadline(&mut self, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        if !matches!(self.workflow.phase, Phase::Running | Phase::Stopping) {
            return Err(Refusal::HasEnded);
        }
        if self.is_cancelling() {
            return Ok(());
        }
        let error = "the workflow has not ended within its deadline".to_owned();
        let cause = Failure { of: self.workflow.id.clone(), kind: "deadline".to_owned(), error };
        // A pause has no end of its own.
        self.edit().paused = false;
        self.fail_for_good(cause, actions);
        Ok(())
    }

    /// Makes the workflow stop without a way back, and cancels what runs.
    fn fail_for_good(&mut self, cause: Failure, actions: &mut Vec<Action>) {
        self.stop(Stop::FailedForGood, cause);
        if self.workflow.running > 0 {
            actions.push(Action::CancelJobs);
        }
    }

    /// Ends the workflow, or begins its next phase, once no job runs.
    pub(super) fn settle(&mut self, actions: &mut Vec<Action>) {
        let state = &self.workflow;
        match state.phase {
            Phase::Running if state.unfinished == 0 => {
                self.edit().phase = Phase::Ended;
                actions.push(Action::Ended(self.workflow.status()));
            }
            Phase::Stopping if state.running == 0 && !state.paused => {
                self.edit().phase = Phase::Compensating;
                self.undo_next(actions);
            }
            Phase::Compensating if state.running == 0 => self.undo_next(actions),
            Phase::Running | Phase::Stopping | Phase::Compensating | Phase::Ended => {}
        }
    }
}
