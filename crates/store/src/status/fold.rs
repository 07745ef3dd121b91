//! Makes a job of its updates, in any order and number.
//!
//! Each field is a function of the set of updates: most fields come from the update of the greatest position, the others
//! are a minimum or maximum of times. So late, duplicate and shuffled updates result in the same job.

use leveret::{
    status_update::{StatusUpdate, Transition},
    time::unix_ms,
};

use super::job::{JobPosition, JobState, TrackedJob};

/// The relation of an update to the row under its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// The update is of the row's job.
    Own,
    /// The update is of another job, published after the row's job had ended.
    Next,
    /// The update is of another job, while the row's job has not ended.
    Other,
}

/// Returns whether an update is of the job with this origin, name and queue. The counters of a message do not
/// distinguish jobs of one id, because its publisher writes them.
pub(super) fn is_same(own: (Option<&str>, &str, &str), update: &StatusUpdate) -> bool {
    let (origin, job, queue) = own;
    match (origin, update.origin.as_deref()) {
        (Some(own), Some(other)) => own == other,
        // Older workers publish no origin.
        _ => job == update.job && queue == update.queue,
    }
}

impl TrackedJob {
    /// Returns whose update this is.
    pub(super) fn relation(&self, update: &StatusUpdate) -> Relation {
        if is_same((self.origin.as_deref(), &self.job, &self.queue), update) {
            Relation::Own
        } else if (self.state.is_terminal() || self.stale) && unix_ms(update.at) > self.updated_at {
            Relation::Next
        } else {
            Relation::Other
        }
    }

    /// Creates a job of which only the identity is known.
    pub(super) fn new(id: &str, update: &StatusUpdate) -> Self {
        Self {
            wire_id: (id != update.id.as_str()).then(|| update.id.to_string()),
            origin: update.origin.clone(),
            id: id.to_owned(),
            label: None,
            job: update.job.clone(),
            queue: update.queue.clone(),
            priority: None,
            state: JobState::Queued,
            attempt: update.attempt,
            hop: 0,
            created_at: u64::MAX,
            due_at: None,
            expires_at: None,
            started_at: None,
            finished_at: None,
            updated_at: 0,
            worker: None,
            progress: None,
            note: None,
            error_kind: None,
            error: None,
            result: None,
            too_large: None,
            cancel_requested_at: None,
            stale: false,
            position: JobPosition::default(),
            cancel_hop: None,
        }
    }

    pub(super) fn apply(&mut self, update: &StatusUpdate) {
        self.stale = false;
        self.created_at = self.created_at.min(unix_ms(update.enqueued_at.unwrap_or(update.at)));
        self.updated_at = self.updated_at.max(unix_ms(update.at));
        self.origin = self.origin.take().or_else(|| update.origin.clone());
        self.label = self.label.take().or_else(|| update.label.clone());
        self.priority = self.priority.or(update.priority);
        match update.transition {
            Transition::Queued { expires, .. } => self.expires_at = self.expires_at.max(expires.map(unix_ms)),
            Transition::Started => self.started_at = self.started_at.max(Some(unix_ms(update.at))),
            Transition::CancelRequested => return self.request_cancel(update),
            _ => {}
        }
        let position = JobPosition::of(update);
        if position >= self.position {
            self.position = position;
            self.move_to(update);
        }
    }

    /// A cancellation is not a state of the job's own: it only changes how a waiting job is shown.
    fn request_cancel(&mut self, update: &StatusUpdate) {
        if update.hop >= self.hop
            && (Some(update.hop), Some(unix_ms(update.at))) > (self.cancel_hop, self.cancel_requested_at)
        {
            (self.cancel_hop, self.cancel_requested_at) = (Some(update.hop), Some(unix_ms(update.at)));
        }
        self.state = self.shown(self.state);
    }

    fn move_to(&mut self, update: &StatusUpdate) {
        if self.cancel_hop.is_some_and(|hop| hop < update.hop) {
            (self.cancel_hop, self.cancel_requested_at) = (None, None);
        }
        self.state = self.shown(JobState::after(&update.transition));
        (self.hop, self.attempt) = (update.hop, update.attempt);
        self.job.clone_from(&update.job);
        self.queue.clone_from(&update.queue);
        self.worker.clone_from(&update.worker);
        self.finished_at = update.transition.is_terminal().then_some(unix_ms(update.at));
        (self.due_at, self.progress, self.note) = (None, None, None);
        (self.error_kind, self.error, self.result, self.too_large) = (None, None, None, None);
        match update.transition.clone() {
            Transition::Queued { due, .. } => self.due_at = due.map(unix_ms),
            Transition::Progress { fraction, note } => (self.progress, self.note) = (Some(fraction), note),
            Transition::Retrying { kind, error, due } => {
                (self.error_kind, self.error, self.due_at) = (Some(kind), Some(error), Some(unix_ms(due)));
            }
            Transition::Snoozed { due } => self.due_at = Some(unix_ms(due)),
            Transition::Succeeded { result, too_large } => (self.result, self.too_large) = (result, too_large),
            Transition::Dead { kind, error } => (self.error_kind, self.error) = (Some(kind), Some(error)),
            Transition::Received
            | Transition::Started
            | Transition::CancelRequested
            | Transition::Duplicate
            | Transition::Cancelled => {}
        }
    }

    fn shown(&self, state: JobState) -> JobState {
        let waits = !state.is_terminal() && state != JobState::Started;
        if waits && self.cancel_hop.is_some() { JobState::CancelRequested } else { state }
    }
}

#[cfg(test)]
mod tests {
    use leveret::time::at_unix_ms;
    use proptest::prelude::*;

    use super::*;

    /// Any updates of one job, also such as no worker publishes. Equal updates are equal in all fields.
    fn updates() -> impl Strategy<Value = Vec<StatusUpdate>> {
        let update = (0u32..3, 0u64..6, 0u8..11).prop_map(|(hop, at, step)| StatusUpdate {
            id: "a".into(),
            job: "email.send".into(),
            queue: format!("email-{hop}"),
            origin: None,
            label: None,
            priority: None,
            attempt: hop + 1,
            hop,
            enqueued_at: (at % 2 == 0).then_some(at_unix_ms(1)),
            at: at_unix_ms(at),
            worker: Some(format!("host:{at}")),
            transition: step_of(step, at),
        });
        proptest::collection::vec(update, 1..12)
    }

    fn step_of(number: u8, at: u64) -> Transition {
        let (kind, error) = (at.to_string(), at.to_string());
        match number {
            0 => Transition::Queued { due: Some(at_unix_ms(at)), expires: Some(at_unix_ms(at)) },
            1 => Transition::Received,
            2 => Transition::Started,
            3 => Transition::Progress { fraction: at as f64, note: None },
            4 => Transition::Retrying { kind, error, due: at_unix_ms(at) },
            5 => Transition::Snoozed { due: at_unix_ms(at) },
            6 => Transition::CancelRequested,
            7 => Transition::Succeeded { result: Some(at.into()), too_large: None },
            8 => Transition::Dead { kind, error },
            9 => Transition::Duplicate,
            _ => Transition::Cancelled,
        }
    }

    fn job(updates: &[StatusUpdate]) -> TrackedJob {
        let mut job = TrackedJob::new("a", &updates[0]);
        updates.iter().for_each(|update| job.apply(update));
        job
    }

    /// Until an update sets them, these fields are guesses.
    fn known(mut job: TrackedJob) -> TrackedJob {
        if job.position == JobPosition::default() {
            (job.attempt, job.queue) = (0, String::new());
        }
        job
    }

    proptest! {
        #[test]
        fn the_order_and_number_of_events_do_not_matter((ordered, shuffled) in updates().prop_flat_map(|updates| {
            let twice = [updates.as_slice(), &updates[..updates.len() / 2]].concat();
            (Just(updates), Just(twice).prop_shuffle())
        })) {
            prop_assert_eq!(known(job(&ordered)), known(job(&shuffled)));
        }

        #[test]
        fn a_job_never_moves_back(updates in updates()) {
            let mut job = TrackedJob::new("a", &updates[0]);
            for update in &updates {
                let before = job.position;
                job.apply(update);
                prop_assert!(job.position >= before);
                prop_assert_eq!(job.hop, job.position.hop);
            }
        }
    }
}
