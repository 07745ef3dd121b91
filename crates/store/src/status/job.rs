//! Tracked jobs and their states.

use std::{fmt, str::FromStr};

use leveret::{
    JobId,
    status_update::{StatusUpdate, Transition},
    time::unix_ms,
};
use leveret_sql::db::{FromRow, Row};
use serde::{Deserialize, Serialize};

/// The condition of a job that has not ended.
pub(crate) const UNFINISHED: &str = "state NOT IN ('succeeded', 'dead', 'cancelled')";

/// The state of a tracked job, by its newest update.
///
/// ```
/// use leveret_store::JobState;
///
/// assert_eq!("retrying".parse(), Ok(JobState::Retrying));
/// assert!(JobState::Dead.is_terminal() && !JobState::CancelRequested.is_terminal());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// In its queue, or delayed.
    Queued,
    /// Delivered to a worker; its handler does not run yet.
    Received,
    /// Its handler runs.
    Started,
    /// An attempt failed; the next is due later.
    Retrying,
    /// Its handler snoozed it: it is delivered again later, and no attempt is counted.
    Snoozed,
    /// It was cancelled while it waited: it will not start.
    CancelRequested,
    /// Its handler succeeded.
    Succeeded,
    /// Dead-lettered.
    Dead,
    /// Cancelled before it succeeded.
    Cancelled,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Received,
        Self::Started,
        Self::Retrying,
        Self::Snoozed,
        Self::CancelRequested,
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
    ];

    /// Its name in updates and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Received => "received",
            Self::Started => "started",
            Self::Retrying => "retrying",
            Self::Snoozed => "snoozed",
            Self::CancelRequested => "cancel_requested",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether the job has ended. Only a replay changes such a state.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }

    pub(super) fn after(transition: &Transition) -> Self {
        match transition {
            Transition::Queued { .. } => Self::Queued,
            Transition::Received => Self::Received,
            Transition::Started | Transition::Progress { .. } => Self::Started,
            Transition::Retrying { .. } => Self::Retrying,
            Transition::Snoozed { .. } => Self::Snoozed,
            Transition::CancelRequested => Self::CancelRequested,
            Transition::Succeeded { .. } | Transition::Duplicate => Self::Succeeded,
            Transition::Dead { .. } => Self::Dead,
            Transition::Cancelled => Self::Cancelled,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| format!("no such state: {text}"))
    }
}

/// A tracked job. Times are in milliseconds since the epoch, each by the clock of the process that published it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrackedJob {
    /// Its id in the store. If several jobs have one id, the first one that the store receives an update of keeps it.
    /// The last one of the others gets its queue and name appended, as in `order-17@email:email.send`
    /// ([`job_id`](Self::job_id) is the id without them).
    pub id: String,
    /// Its label.
    pub label: Option<String>,
    /// The job's name.
    pub job: String,
    /// Its queue.
    pub queue: String,
    /// The priority that it was published with.
    pub priority: Option<u8>,
    /// Its state.
    pub state: JobState,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The number of copies of its message before this one.
    pub hop: u32,
    /// The time of its first publish, or of its first update if that is unknown.
    pub created_at: u64,
    /// The due time, while it is delayed, retrying or snoozed.
    pub due_at: Option<u64>,
    /// The time at which it expires if it has not started.
    pub expires_at: Option<u64>,
    /// The last start of its handler.
    pub started_at: Option<u64>,
    /// The time of its end.
    pub finished_at: Option<u64>,
    /// The time of its latest update.
    pub updated_at: u64,
    /// The worker that published its state: host and process id.
    pub worker: Option<String>,
    /// The progress from 0 to 1, if its handler reports it.
    pub progress: Option<f64>,
    /// The progress in words.
    pub note: Option<String>,
    /// The class of the error that it is retried for, or was dead-lettered for.
    pub error_kind: Option<String>,
    /// That error with its sources.
    pub error: Option<String>,
    /// The result of its handler.
    pub result: Option<serde_json::Value>,
    /// The size in bytes of a result that was too large to be stored.
    pub too_large: Option<u64>,
    /// The time at which this copy of it was cancelled.
    pub cancel_requested_at: Option<u64>,
    /// True if the store may have missed updates of it: the state is the last known one.
    pub stale: bool,
    /// The digest of its origin, as its updates have it, which distinguishes it from every other job of its id.
    #[serde(skip)]
    pub origin: Option<String>,
    /// Its id on the wire, if that is another.
    #[serde(skip)]
    pub(crate) wire_id: Option<String>,
    #[serde(skip)]
    pub(crate) position: JobPosition,
    #[serde(skip)]
    pub(crate) cancel_hop: Option<u32>,
}

impl TrackedJob {
    /// Its id on the wire.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store) -> leveret_store::Result<()> {
    /// let job = store.job("order-17").await?;
    /// assert_eq!(job.map(|job| job.job_id()), Some("order-17".into()));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn job_id(&self) -> JobId {
        self.wire_id().into()
    }

    pub(crate) fn wire_id(&self) -> &str {
        self.wire_id.as_deref().unwrap_or(&self.id)
    }
}

/// The position of an update in the life of a job. An update of a smaller position is old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobPosition {
    pub(crate) hop: u32,
    pub(crate) rank: u8,
    /// Orders two runs of one copy, which happen when a worker dies, and the progress of one run.
    pub(crate) moment: u64,
}

impl JobPosition {
    pub(super) fn of(update: &StatusUpdate) -> Self {
        let progress = matches!(update.transition, Transition::Progress { .. });
        // Updates of the same millisecond need an order too. Progress is later than its start.
        let order = JobState::after(&update.transition) as u64 * 2 + u64::from(progress);
        Self {
            hop: update.hop,
            rank: update.transition.rank(),
            moment: unix_ms(update.at).saturating_mul(32).saturating_add(order),
        }
    }
}

/// A job whose row was changed by [`record`](crate::Store::record).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// Its id.
    pub id: String,
    /// Its new state.
    pub state: JobState,
}

/// A status update of a job. The same update of the same copy is stored once, with the earliest time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelineEntry {
    /// The number of the copy.
    pub hop: u32,
    /// The number of the attempt.
    pub attempt: u32,
    /// Its name: a state.
    pub step: String,
    /// The time of its publish, in milliseconds since the epoch.
    pub at: u64,
    /// The worker that published it.
    pub worker: Option<String>,
    /// Its other fields: `due`, `kind`, `error`, `expires`, `too_large`.
    pub detail: Option<serde_json::Value>,
}

/// A filter of jobs. A job must match all of its fields; the default matches every job.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// In one of these states, or in any if this is empty.
    pub states: Vec<JobState>,
    /// With exactly this name.
    pub job: Option<String>,
    /// On exactly this queue.
    pub queue: Option<String>,
    /// With this text in the label, whatever the case of ASCII letters.
    pub label: Option<String>,
    /// Created then or later, in milliseconds since the epoch.
    pub created_from: Option<u64>,
    /// Created before then.
    pub created_until: Option<u64>,
    /// Due then or later, in milliseconds since the epoch.
    pub due_from: Option<u64>,
    /// Due before then, or without a due time.
    pub due_until: Option<u64>,
    /// Stale, or not stale.
    pub stale: Option<bool>,
}

impl FromRow for TrackedJob {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let hop = row.number("hop")?;
        Ok(Self {
            id: row.try_get("id")?,
            label: row.try_get("label")?,
            job: row.try_get("job")?,
            queue: row.try_get("queue")?,
            priority: row.maybe_number("priority")?,
            state: row.parse("state")?,
            attempt: row.number("attempt")?,
            hop,
            created_at: row.number("created_at")?,
            due_at: row.maybe_number("due_at")?,
            expires_at: row.maybe_number("expires_at")?,
            started_at: row.maybe_number("started_at")?,
            finished_at: row.maybe_number("finished_at")?,
            updated_at: row.number("updated_at")?,
            worker: row.try_get("worker")?,
            progress: row.try_get("progress")?,
            note: row.try_get("note")?,
            error_kind: row.try_get("error_kind")?,
            error: row.try_get("error")?,
            result: row.json("result")?,
            too_large: row.maybe_number("too_large")?,
            cancel_requested_at: row.maybe_number("cancel_requested_at")?,
            stale: row.flag("stale")?,
            origin: row.try_get("origin")?,
            wire_id: row.try_get("wire_id")?,
            position: JobPosition { hop, rank: row.number("step_rank")?, moment: row.number("moment")? },
            cancel_hop: row.maybe_number("cancel_hop")?,
        })
    }
}

impl FromRow for TimelineEntry {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            hop: row.number("hop")?,
            attempt: row.number("attempt")?,
            step: row.try_get("step")?,
            at: row.number("at")?,
            worker: row.try_get("worker")?,
            detail: row.json("detail")?,
        })
    }
}
