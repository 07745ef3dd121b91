//! Tracked jobs, their states, and which of them are listed.

use std::{fmt, str::FromStr};

use leveret::event::{JobEvent, Step};
use leveret_sql::db::{FromRow, Row};
use serde::{Deserialize, Serialize};

/// The condition of a job whose end is yet to come.
pub(crate) const UNFINISHED: &str = "state NOT IN ('succeeded', 'dead', 'cancelled')";

/// Where a tracked job is, by the newest of its events.
///
/// ```
/// use leveret_store::State;
///
/// assert_eq!("retrying".parse(), Ok(State::Retrying));
/// assert!(State::Dead.is_terminal() && !State::CancelRequested.is_terminal());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In its queue, or delayed on the way there.
    Queued,
    /// In a worker's hands, its handler not yet running.
    Received,
    /// Its handler runs.
    Started,
    /// An attempt failed; the next is due later.
    Retrying,
    /// It comes back later, with no attempt charged.
    Snoozed,
    /// It was waiting when somebody cancelled it: it will not start.
    CancelRequested,
    /// Done.
    Succeeded,
    /// Given up; it is a dead letter.
    Dead,
    /// Cancelled before it was done.
    Cancelled,
}

impl State {
    /// All of them.
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

    /// Its name, as events and the database have it.
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

    /// Whether nothing comes after it, unless somebody replays the job.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }

    pub(super) fn after(step: &Step) -> Self {
        match step {
            Step::Queued { .. } => Self::Queued,
            Step::Received => Self::Received,
            Step::Started | Step::Progress { .. } => Self::Started,
            Step::Retrying { .. } => Self::Retrying,
            Step::Snoozed { .. } => Self::Snoozed,
            Step::CancelRequested => Self::CancelRequested,
            Step::Succeeded { .. } | Step::Duplicate => Self::Succeeded,
            Step::Dead { .. } => Self::Dead,
            Step::Cancelled => Self::Cancelled,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| format!("no such state: {text}"))
    }
}

/// A tracked job. Times are in milliseconds since the epoch, each on the clock of who told it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Its id here. Of several jobs that bear one id, the first that was heard of has it. Of the others the last one has its
    /// queue and its name behind it, as in `order-17@email:email.send` ([`job_id`](Self::job_id) is the id without them).
    pub id: String,
    /// The text that it was published with to be shown.
    pub label: Option<String>,
    /// Its name.
    pub job: String,
    /// The job queue.
    pub queue: String,
    /// The priority that it was published with.
    pub priority: Option<u8>,
    /// Where it is.
    pub state: State,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How many copies there were before this one.
    pub hop: u32,
    /// First publish; if no event told it, the first event.
    pub created_at: u64,
    /// When it goes on, while it is delayed, retrying or snoozed.
    pub due_at: Option<u64>,
    /// When it is given up if it has not started.
    pub expires_at: Option<u64>,
    /// The latest start of its handler.
    pub started_at: Option<u64>,
    /// Its end.
    pub finished_at: Option<u64>,
    /// The latest event.
    pub updated_at: u64,
    /// Who told the state: host and process id of a worker.
    pub worker: Option<String>,
    /// From 0 to 1, while it runs and its handler told.
    pub progress: Option<f64>,
    /// Progress in words.
    pub note: Option<String>,
    /// The class of the error that it is retried for or died of.
    pub error_kind: Option<String>,
    /// That error, and its sources.
    pub error: Option<String>,
    /// What its handler returned.
    pub result: Option<serde_json::Value>,
    /// The size in bytes of a result that was too large to be kept.
    pub too_large: Option<u64>,
    /// When somebody cancelled this copy of it.
    pub cancel_requested_at: Option<u64>,
    /// Whether events of it may have been missed: the state is the last that is known.
    pub stale: bool,
    /// What tells it from every other job of its id, as its events have it.
    #[serde(skip)]
    pub origin: Option<String>,
    /// Its id on the wire, where that is another.
    #[serde(skip)]
    pub(crate) wire_id: Option<String>,
    #[serde(skip)]
    pub(crate) place: Place,
    #[serde(skip)]
    pub(crate) cancel_hop: Option<u32>,
}

impl Job {
    /// Its id on the wire.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store) -> leveret_store::Result<()> {
    /// let job = store.job("order-17").await?;
    /// assert_eq!(job.as_ref().map(|job| job.job_id()), Some("order-17"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn job_id(&self) -> &str {
        self.wire_id.as_deref().unwrap_or(&self.id)
    }
}

/// Where a job is in its life: what has a smaller place is old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) hop: u32,
    pub(crate) rank: u8,
    /// Decides between two runs of one copy, which there are when a worker died, and between the progress of one run.
    pub(crate) moment: u64,
}

impl Place {
    pub(super) fn of(event: &JobEvent) -> Self {
        let progress = matches!(event.step, Step::Progress { .. });
        // Steps of the same millisecond need an order as well; of a start and progress, progress is the later.
        let order = State::after(&event.step) as u64 * 2 + u64::from(progress);
        Self { hop: event.hop, rank: event.step.rank(), moment: event.at.saturating_mul(32).saturating_add(order) }
    }
}

/// A job whose row was changed by [`record`](crate::Store::record).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its id.
    pub id: String,
    /// Where it is now.
    pub state: State,
}

/// One step in the life of a job; the same step of the same copy stands once, with the first time it was told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelineEntry {
    /// Which copy of the job.
    pub hop: u32,
    /// Which attempt.
    pub attempt: u32,
    /// The step's name: a state, as events have it.
    pub step: String,
    /// When, in milliseconds since the epoch.
    pub at: u64,
    /// Who told it.
    pub worker: Option<String>,
    /// The rest of it: `due`, `kind`, `error`, `expires`, `too_large`.
    pub detail: Option<serde_json::Value>,
}

/// Which jobs are listed: those that all of it fits. The default fits all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In one of these states; empty: in any.
    pub states: Vec<State>,
    /// With exactly this name.
    pub job: Option<String>,
    /// On exactly this queue.
    pub queue: Option<String>,
    /// With this text somewhere in the label; ASCII letters fit in either case.
    pub label: Option<String>,
    /// Created then or later, in milliseconds since the epoch.
    pub created_from: Option<u64>,
    /// Created before then.
    pub created_until: Option<u64>,
    /// Due then or later, in milliseconds since the epoch.
    pub due_from: Option<u64>,
    /// Due before then, or at no certain time.
    pub due_until: Option<u64>,
    /// Whether events of it may have been missed.
    pub stale: Option<bool>,
}

impl FromRow for Job {
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
            place: Place { hop, rank: row.number("step_rank")?, moment: row.number("moment")? },
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
