//! Publishes jobs to their queues: `Ok` means that the broker confirmed the job.

pub(crate) mod builder;
pub(crate) mod draft;
pub(crate) mod emit;
mod event_draft;
pub(crate) mod header_value;
pub(crate) mod new_event;
pub(crate) mod new_job;
pub(crate) mod options;
pub(crate) mod publisher;
pub(crate) mod replay;
pub(crate) mod request;
pub(crate) mod step;
pub mod unique;
pub(crate) mod with_result;
