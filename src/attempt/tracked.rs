//! What an attempt at a tracked job has besides: its progress, its result, and somebody who may not want it any more.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
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
    topology::QueueDeclaration,
    tracking::{
        cancellations::CancelWatch,
        status_update::{NOTE_LIMIT, RESULT_LIMIT, StatusUpdate, Step},
    },
};

/// Progress is told at most so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

impl StatusUpdate {
    /// A step of a job that this process has in hand.
    pub(crate) fn of(received: &Incoming, queue: &QueueDeclaration, at: u64, step: Step) -> Self {
        let (message, envelope) = (&received.message, received.envelope);
        Self {
            id: received.tracking_id(queue),
            job: message.job_name().unwrap_or_default().to_owned(),
            queue: queue.name().to_owned(),
            origin: Some(message.origin().into_owned()),
            label: message.label().map(str::to_owned),
            priority: *message.properties.priority(),
            attempt: envelope.attempt,
            hop: envelope.hop,
            enqueued_at: envelope.enqueued_at,
            at,
            worker: Some(PROCESS.clone()),
            step,
        }
    }
}

pub(crate) struct Tracked {
    broker: Broker,
    queue: QueueDeclaration,
    received: Arc<Incoming>,
    watched: CancelWatch,
    report: Mutex<Report>,
}

#[derive(Default)]
struct Report {
    /// When progress was told last.
    told: Option<Instant>,
    /// What was not told yet, because it came too soon.
    waiting: Option<Step>,
    result: Option<serde_json::Value>,
    too_large: Option<u64>,
}

impl Tracked {
    pub(crate) fn new(broker: &Broker, queue: &QueueDeclaration, received: &Arc<Incoming>) -> Arc<Self> {
        Arc::new(Self {
            broker: broker.clone(),
            queue: queue.clone(),
            received: Arc::clone(received),
            watched: broker.cancellations().watch(&received.tracking_id(queue), received.life_began()),
            report: Mutex::default(),
        })
    }

    /// Set once the job is not wanted any more.
    pub(crate) fn cancelled(&self) -> &SetOnce<()> {
        self.watched.cancelled()
    }

    /// Whether nobody wants the job any more. Waits until that can be known, if it can be.
    pub(crate) async fn is_cancelled(&self) -> bool {
        self.broker.cancellations().contains(&self.received.tracking_id(&self.queue), self.received.life_began()).await
    }

    /// Tells a step without waiting for it.
    pub(crate) fn report(&self, step: Step) {
        let event = StatusUpdate::of(&self.received, &self.queue, self.broker.now_ms(), step);
        self.broker.emitter().report(self.broker.transport(), event);
    }

    /// Tells how far the job is: now, or a second after the last time.
    pub(crate) fn progress(self: &Arc<Self>, fraction: f64, note: Option<&str>) {
        let note = note.map(|note| crate::message::truncated(note, NOTE_LIMIT).to_owned());
        let step = Step::Progress { fraction: if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 }, note };
        let mut report = self.lock();
        let now = Instant::now();
        match report.told.map(|told| told + PROGRESS_EVERY) {
            Some(due) if due > now => {
                // One that waits is replaced, and its task tells this one.
                if report.waiting.replace(step).is_none() {
                    tokio::spawn(tell_at(Arc::downgrade(self), due));
                }
            }
            _ => {
                report.told = Some(now);
                drop(report);
                self.report(step);
            }
        }
    }

    /// Keeps what the handler returned.
    pub(crate) fn keep_result(&self, result: &impl Serialize) {
        let mut report = self.lock();
        // What cannot be written as JSON is as good as nothing.
        let value = serde_json::to_value(result).unwrap_or_default();
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

    /// The step of a success.
    pub(crate) fn succeeded(&self) -> Step {
        let mut report = self.lock();
        Step::Succeeded { result: report.result.take(), too_large: report.too_large }
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell_at(tracked: Weak<Tracked>, due: Instant) {
    sleep_until(due).await;
    let Some(tracked) = tracked.upgrade() else { return };
    let mut report = tracked.lock();
    report.told = Some(due);
    let waiting = report.waiting.take();
    drop(report);
    if let Some(step) = waiting {
        tracked.report(step);
    }
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("job_id", &self.received.id()).finish_non_exhaustive()
    }
}
