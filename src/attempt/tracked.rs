//! An attempt at a tracked job or at a step of a workflow: its progress, its result, and its cancellation.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::{
    sync::SetOnce,
    time::{Instant, sleep_until},
};

use crate::{
    attempt::admission::Incoming,
    broker::Broker,
    identity::PROCESS,
    job::JobId,
    time::at_unix_ms,
    topology::QueueDeclaration,
    tracking::{
        cancellations::CancelWatch,
        status_update::{NOTE_LIMIT, RESULT_LIMIT, StatusUpdate, Transition},
    },
};

/// Shortest time between two progress updates.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

impl StatusUpdate {
    /// Returns the status update of a job that this process runs.
    pub(crate) fn of(received: &Incoming, queue: &QueueDeclaration, at: SystemTime, transition: Transition) -> Self {
        let (message, envelope) = (&received.message, received.envelope);
        Self {
            id: JobId::from(received.tracking_id(queue)),
            job: message.job_name().unwrap_or_default().to_owned(),
            queue: queue.name().to_owned(),
            origin: Some(message.origin_digest()),
            label: message.label().map(str::to_owned),
            priority: *message.properties.priority(),
            attempt: envelope.attempt,
            hop: envelope.hop,
            enqueued_at: envelope.enqueued_at.map(at_unix_ms),
            at,
            worker: Some(PROCESS.clone()),
            transition,
        }
    }
}

pub(crate) struct Tracked {
    broker: Broker,
    queue: QueueDeclaration,
    received: Arc<Incoming>,
    watched: CancelWatch,
    /// The id under which the job's whole workflow is cancelled.
    workflow: Option<String>,
    report: Mutex<Report>,
}

#[derive(Default)]
struct Report {
    /// Time of the last progress update.
    reported: Option<Instant>,
    /// The latest progress update, if it came too soon and waits.
    waiting: Option<Transition>,
    result: Option<serde_json::Value>,
    too_large: Option<u64>,
}

impl Tracked {
    pub(crate) fn new(broker: &Broker, queue: &QueueDeclaration, received: &Arc<Incoming>) -> Arc<Self> {
        let workflow = received.message.step().and_then(|step| step.cancel_id());
        let ids = [Some(received.tracking_id(queue)), workflow.clone()];
        Arc::new(Self {
            broker: broker.clone(),
            queue: queue.clone(),
            received: Arc::clone(received),
            watched: broker.cancellations().watch(ids.into_iter().flatten(), received.life_began()),
            workflow,
            report: Mutex::default(),
        })
    }

    /// Returns the signal that is set once the job is cancelled.
    pub(crate) fn cancelled(&self) -> &SetOnce<()> {
        self.watched.cancelled()
    }

    /// Returns whether the job is cancelled. Waits until the stream of cancellations is read, if it is readable.
    pub(crate) async fn is_cancelled(&self) -> bool {
        let (cancellations, since) = (self.broker.cancellations(), self.received.life_began());
        let is_workflow_cancelled = match &self.workflow {
            Some(id) => cancellations.contains(id, since).await,
            None => false,
        };
        is_workflow_cancelled || cancellations.contains(&self.received.tracking_id(&self.queue), since).await
    }

    /// Returns whether the job is a step that an earlier attempt may have completed without a report: its worker was killed, or
    /// the reply to its commit was lost. Its handler knows, and a success must be compensated.
    pub(crate) fn may_have_succeeded(&self) -> bool {
        self.workflow.is_some() && (self.received.redelivered || self.received.envelope.attempt > 1)
    }

    /// Publishes a status update in the background, unless the job is an untracked step of a workflow.
    pub(crate) fn report(&self, transition: Transition) {
        if !self.received.envelope.track {
            return;
        }
        let update = StatusUpdate::of(&self.received, &self.queue, at_unix_ms(self.broker.now_ms()), transition);
        self.broker.emitter().report(self.broker.transport(), update);
    }

    /// Reports the progress at once, or a second after the last report.
    pub(crate) fn progress(self: &Arc<Self>, fraction: f64, note: Option<&str>) {
        let note = note.map(|note| crate::message::truncated(note, NOTE_LIMIT).to_owned());
        let transition =
            Transition::Progress { fraction: if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 }, note };
        let mut report = self.lock();
        let now = Instant::now();
        match report.reported.map(|reported| reported + PROGRESS_EVERY) {
            Some(due) if due > now => {
                // A waiting update is replaced; its task will publish this one.
                if report.waiting.replace(transition).is_none() {
                    tokio::spawn(report_at(Arc::downgrade(self), due));
                }
            }
            _ => {
                report.reported = Some(now);
                drop(report);
                self.report(transition);
            }
        }
    }

    /// Keeps the handler's result.
    pub(crate) fn keep_result(&self, result: &impl Serialize) {
        let mut report = self.lock();
        let value = serde_json::to_value(result).unwrap_or_else(|error| {
            let error = error.to_string();
            tracing::warn!(job_id = self.received.id(), error, "the result is no JSON: it counts as none");
            serde_json::Value::Null
        });
        let size = serde_json::to_vec(&value).map_or(0, |bytes| bytes.len());
        if size > RESULT_LIMIT {
            tracing::warn!(
                job_id = self.received.id(),
                bytes = size,
                limit_bytes = RESULT_LIMIT,
                "the result is too large to be kept"
            );
            (report.result, report.too_large) = (None, Some(size as u64));
        } else {
            (report.result, report.too_large) = (Some(value).filter(|value| !value.is_null()), None);
        }
    }

    /// Returns the state change of a success.
    pub(crate) fn succeeded(&self) -> Transition {
        let mut report = self.lock();
        Transition::Succeeded { result: report.result.take(), too_large: report.too_large }
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn report_at(tracked: Weak<Tracked>, due: Instant) {
    sleep_until(due).await;
    let Some(tracked) = tracked.upgrade() else { return };
    let mut report = tracked.lock();
    report.reported = Some(due);
    let waiting = report.waiting.take();
    drop(report);
    if let Some(transition) = waiting {
        tracked.report(transition);
    }
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("job_id", &self.received.id()).finish_non_exhaustive()
    }
}
