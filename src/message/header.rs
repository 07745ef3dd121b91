//! Header names. None starts with `x-`, because AMQP 1.0 conversion would move such headers.

pub(crate) const JOB: &str = "leveret-job";
pub(crate) const ATTEMPT: &str = "leveret-attempt";
pub(crate) const HOP: &str = "leveret-hop";
pub(crate) const ENQUEUED_AT: &str = "leveret-enqueued-at";
pub(crate) const REPLAYED_AT: &str = "leveret-replayed-at";
pub(crate) const NOT_BEFORE: &str = "leveret-not-before";
/// The job's own slot before a rate limit (`message::slot`).
pub(crate) const SLOT: &str = "leveret-slot";
pub(crate) const EXPIRES_AT: &str = "leveret-expires-at";
pub(crate) const ERROR: &str = "leveret-error";
pub(crate) const ERROR_KIND: &str = "leveret-error-kind";
pub(crate) const FAILED_AT: &str = "leveret-failed-at";
pub(crate) const QUEUE: &str = "leveret-queue";
/// The subscription whose copy of an event this is.
pub(crate) const SUBSCRIPTION: &str = "leveret-subscription";
/// The fire time of the schedule that published the job.
pub(crate) const FIRED_AT: &str = "leveret-fired-at";
pub(crate) const TRACK: &str = "leveret-track";
pub(crate) const LABEL: &str = "leveret-label";
/// Distinguishes a tracked job from others with the same id; see [`Message::origin`](super::Message::origin).
pub(crate) const ORIGIN: &str = "leveret-origin";
/// The due time of a snoozing job, before its first snooze.
pub(crate) const SNOOZED_SINCE: &str = "leveret-snoozed-since";
/// The most jobs of a batch that the job may be part of.
pub(crate) const BATCH: &str = "leveret-batch";
/// The position that the handler saved, as JSON.
pub(crate) const CHECKPOINT: &str = "leveret-checkpoint";
/// The id of the workflow whose step the job is.
pub(crate) const WORKFLOW: &str = "leveret-workflow";
pub(crate) const WORKFLOW_STEP: &str = "leveret-workflow-step";
/// The position of the job in its group, from 0.
pub(crate) const WORKFLOW_MEMBER: &str = "leveret-workflow-member";
pub(crate) const WORKFLOW_LIFE: &str = "leveret-workflow-life";
pub(crate) const WORKFLOW_ROLE: &str = "leveret-workflow-role";
/// The results of the step's direct predecessors, as JSON.
pub(crate) const WORKFLOW_RESULTS: &str = "leveret-workflow-results";
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";
/// The number of the message; streams write it.
pub(crate) const STREAM_OFFSET: &str = "x-stream-offset";
/// The reason, in place of the headers of a message that lapin cannot read (`lapin_guard::Markers`).
pub(crate) const UNREADABLE: &str = "leveret-unreadable";
/// The original properties of such a message, byte for byte, cut off at the size of a frame.
pub(crate) const ORIGINAL: &str = "leveret-original-properties";
/// The number of unsuccessful deliveries of the message; quorum queues write it.
pub(crate) const DELIVERY_COUNT: &str = "x-delivery-count";
