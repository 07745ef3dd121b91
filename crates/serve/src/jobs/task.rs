//! Tracked jobs in responses.

use std::{fmt, str::FromStr};

use leveret::text::hex;
use leveret_store::{JobFilter, JobState, TimelineEntry, TrackedJob, time::to_rfc3339};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::{
    ToSchema,
    openapi::schema::{Object, ObjectBuilder, SchemaType, Type},
};

/// The status of a task.
///
/// Pending: in its queue. Scheduled: waits for its time. Processing: runs. Retrying: an attempt failed, and another
/// follows. Completed, Failed: ended. Cancelled: will not start, or was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum Status {
    /// The job is in its queue.
    Pending,
    /// The job waits for its time.
    Scheduled,
    /// The job runs.
    Processing,
    /// An attempt failed, and another follows.
    Retrying,
    /// The job succeeded.
    Completed,
    /// The job is dead-lettered.
    Failed,
    /// The job will not start, or was stopped.
    Cancelled,
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Scheduled,
        Self::Processing,
        Self::Retrying,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    pub(crate) fn of(job: &TrackedJob, now: u64) -> Self {
        match job.state {
            JobState::Queued | JobState::Snoozed if job.due_at.is_some_and(|due| due > now) => Self::Scheduled,
            JobState::Queued | JobState::Snoozed | JobState::Received => Self::Pending,
            JobState::Started => Self::Processing,
            JobState::Retrying => Self::Retrying,
            JobState::Succeeded => Self::Completed,
            JobState::Dead => Self::Failed,
            JobState::CancelRequested | JobState::Cancelled => Self::Cancelled,
        }
    }

    /// A filter for jobs with this status at `now`, in milliseconds since the epoch.
    #[must_use]
    pub fn filter(self, now: u64) -> JobFilter {
        let of = |states: &[JobState]| JobFilter { states: states.to_vec(), ..JobFilter::default() };
        let soon = now.saturating_add(1);
        match self {
            Self::Pending => {
                JobFilter { due_until: Some(soon), ..of(&[JobState::Queued, JobState::Snoozed, JobState::Received]) }
            }
            Self::Scheduled => JobFilter { due_from: Some(soon), ..of(&[JobState::Queued, JobState::Snoozed]) },
            Self::Processing => of(&[JobState::Started]),
            Self::Retrying => of(&[JobState::Retrying]),
            Self::Completed => of(&[JobState::Succeeded]),
            Self::Failed => of(&[JobState::Dead]),
            Self::Cancelled => of(&[JobState::CancelRequested, JobState::Cancelled]),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|status| status.to_string().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("{text:?} is none of {}", Self::ALL.map(|status| status.to_string()).join(", ")))
    }
}

/// A tracked job. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Task {
    /// The job's id.
    pub id: String,
    /// The name that it was submitted with; the job's name if none.
    pub name: String,
    /// The priority that it was submitted with.
    #[schema(required)]
    pub priority: Option<u8>,
    /// The job's status.
    pub status: Status,
    /// The error of the last attempt, with its sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The class of that error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
    /// The job's name.
    pub job: String,
    /// The job queue.
    pub queue: String,
    /// The attempt, from 1.
    #[schema(minimum = 1)]
    pub attempt: u32,
    /// The time of its submission.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// The time when the job runs, while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub due_at: Option<String>,
    /// The time at which the job fails if it has not started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// The last start of its handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// The time of its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
    /// The time of the last status update.
    #[schema(format = DateTime)]
    pub updated_at: String,
    /// The time of its cancellation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub cancel_requested_at: Option<String>,
    /// Host and process id of the last worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The progress that its handler reported last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The result of its handler, up to 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The size in bytes of a result that was too large to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_too_large: Option<u64>,
    /// True if status updates may be missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// The status updates, the oldest first; of very many copies, the first and the last. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Vec<TimelineStep>>,
}

/// The progress of a job.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Progress {
    /// From 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub fraction: f64,
    /// A text of the handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One status update of a job.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Step)]
pub struct TimelineStep {
    /// The time of the update.
    #[schema(format = DateTime)]
    pub at: String,
    /// `queued`, `received`, `started`, `retrying`, `snoozed`, `cancel_requested`, `succeeded`, `duplicate`, `dead` or
    /// `cancelled`.
    #[schema(schema_with = step_names)]
    pub step: String,
    /// The attempt, from 1.
    #[schema(minimum = 1)]
    pub attempt: u32,
    /// Host and process id of the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The details of the step: `due`, `expires`, `kind`, `error`, `too_large`.
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

fn step_names() -> Object {
    let names = [
        "queued",
        "received",
        "started",
        "retrying",
        "snoozed",
        "cancel_requested",
        "succeeded",
        "duplicate",
        "dead",
        "cancelled",
    ];
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(names)).build()
}

impl Task {
    pub(crate) fn new(job: TrackedJob, now: u64) -> Self {
        let status = Status::of(&job, now);
        let waits = matches!(status, Status::Scheduled | Status::Retrying | Status::Pending);
        Self {
            name: job.label.unwrap_or_else(|| job.job.clone()),
            id: job.id,
            priority: job.priority,
            status,
            error: job.error,
            error_kind: job.error_kind,
            job: job.job,
            queue: job.queue,
            attempt: job.attempt,
            created_at: to_rfc3339(job.created_at),
            due_at: job.due_at.filter(|_| waits).map(to_rfc3339),
            expires_at: job.expires_at.map(to_rfc3339),
            started_at: job.started_at.map(to_rfc3339),
            finished_at: job.finished_at.map(to_rfc3339),
            updated_at: to_rfc3339(job.updated_at),
            cancel_requested_at: job.cancel_requested_at.map(to_rfc3339),
            worker: job.worker,
            progress: job.progress.map(|fraction| Progress { fraction, note: job.note }),
            result: job.result,
            result_too_large: job.too_large,
            stale: job.stale,
            timeline: None,
        }
    }

    /// A version of the job's state: it changes with the state, and is the same for all servers on one store.
    #[must_use]
    pub fn version(&self) -> String {
        // Several changes may have the same time.
        let text = serde_json::to_string(&Self { timeline: None, ..self.clone() }).unwrap_or_default();
        let digest = Sha256::digest(text);
        format!("{}/{}", self.updated_at, hex(&digest[..8]))
    }

    pub(crate) fn with_timeline(self, entries: Vec<TimelineEntry>) -> Self {
        Self { timeline: Some(entries.into_iter().map(TimelineStep::from).collect()), ..self }
    }
}

impl From<TimelineEntry> for TimelineStep {
    fn from(entry: TimelineEntry) -> Self {
        let TimelineEntry { attempt, step, at, worker, detail, .. } = entry;
        let mut detail = if let Some(Value::Object(detail)) = detail { detail } else { Map::new() };
        for name in ["due", "expires"] {
            if let Some(time) = detail.get_mut(name)
                && let Some(ms) = time.as_u64()
            {
                *time = to_rfc3339(ms).into();
            }
        }
        Self { at: to_rfc3339(at), step, attempt, worker, detail }
    }
}
