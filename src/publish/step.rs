//! Jobs as steps of workflows: a job without what only its publish knows, and its way back.

use crate::{
    error::PublishError,
    message::step::StepHeaders,
    publish::{
        draft::require,
        new_job::NewJob,
        options::{JobOptions, Lanes},
    },
    time::now_ms,
};

/// The parts of a job that a step of a workflow keeps.
pub(crate) struct StepParts {
    pub(crate) name: String,
    pub(crate) queue: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) options: JobOptions,
}

impl NewJob {
    /// Takes a job apart for a step.
    ///
    /// # Errors
    ///
    /// [`PublishError::Encode`], and [`PublishError::Invalid`] for what a step cannot have.
    pub(crate) fn into_step(mut self) -> Result<StepParts, PublishError> {
        let payload = self.payload()?.to_vec();
        let reason = "the id of a step is made of the workflow's id and the step's name";
        require(self.id.is_none(), "job id", &self.id.as_deref().unwrap_or_default(), reason)?;
        if let Lanes::Of(queue) = &self.options.lanes {
            self.options.lanes = Lanes::Flag(*queue == self.queue);
        }
        let (name, queue) = (self.name.into_owned(), self.queue.into_owned());
        Ok(StepParts { name, queue, payload, options: self.options })
    }

    /// Returns the job of a step, which is published like any other.
    pub(crate) fn of_step(parts: StepParts, step: StepHeaders, origin: &str, is_tracked: bool) -> Self {
        let StepParts { name, queue, payload, mut options } = parts;
        options.track |= is_tracked;
        options.origin = Some(origin.to_owned());
        let id = step.at.to_string();
        options.step = Some(Box::new(step));
        Self { options, ..Self::new(name.into(), queue.into(), Ok(payload)).id(id) }
    }

    /// Checks a step by all that is known of it before it is published.
    ///
    /// # Errors
    ///
    /// [`PublishError::Invalid`], or [`PublishError::TooLarge`] if its headers exceed `headers_limit`.
    pub(crate) fn check_step(&self, headers_limit: usize) -> Result<(), PublishError> {
        let options = &self.options;
        let unique = options.unique.as_ref().map_or("", |unique| &unique.key);
        require(options.unique.is_none(), "unique key", &unique, "a step of a workflow cannot be unique")?;
        let (size, limit) = (self.draft_size(now_ms())?, headers_limit);
        if size > limit { Err(PublishError::TooLarge { part: "headers", size, limit }) } else { Ok(()) }
    }
}

impl JobOptions {
    /// Returns whether only a publish may set what these options have: an origin, or a place in a workflow.
    pub(crate) fn is_published(&self) -> bool {
        self.origin.is_some() || self.step.is_some()
    }
}
