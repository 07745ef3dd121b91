//! Tells the steps of tracked jobs. The last step of a job is confirmed before the job is settled (`settle`); the others
//! go through here, and never hold a job up: what cannot be told at once, because the broker is away or slow, is lost
//! and counted.

use std::sync::{
    LazyLock, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::{
    broker::{Broker, SendError},
    event::{JobEvent, Step},
    intake::Received,
    job::JobId,
    message::{Message, header},
    topology::Target,
};

/// Steps that wait to be told; more are lost.
const QUEUED: usize = 4_096;
/// Steps that are published at once.
const AT_ONCE: usize = 256;
/// The property `type` of what is told.
pub(crate) const EVENT: &str = "leveret.event";

/// Who tells: this host and process.
static WORKER: LazyLock<String> = LazyLock::new(|| {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.ok().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
});

#[derive(Default)]
pub(crate) struct Teller {
    queue: OnceLock<mpsc::Sender<JobEvent>>,
    /// The broker does not let this user tell anything.
    is_refused: AtomicBool,
}

impl JobEvent {
    /// A step of a job that this process has in hand.
    pub(crate) fn of(received: &Received, queue: &str, at: u64, step: Step) -> Self {
        let (message, envelope) = (&received.message, received.envelope);
        Self {
            id: received.id().to_owned(),
            job: message.job_name().unwrap_or_default().to_owned(),
            queue: queue.to_owned(),
            label: message.text(header::LABEL).map(str::to_owned),
            priority: *message.properties.priority(),
            attempt: envelope.attempt,
            hop: envelope.hop,
            enqueued_at: envelope.enqueued_at,
            at,
            worker: Some(WORKER.clone()),
            step,
        }
    }

    /// Where it is told, and the message that tells it.
    pub(crate) fn into_message(self) -> (Target, Box<Message>) {
        let target = Target::Event(self.step.name(), self.queue.clone());
        // Strings, numbers and the JSON of a result: all of it can be written.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (target, Box::new(Message::new(EVENT, &JobId::from(self.id), body, self.at)))
    }
}

impl Teller {
    /// Tells a step without waiting for it.
    pub(crate) fn tell(&self, broker: &Broker, event: JobEvent) {
        if self.is_refused() {
            return;
        }
        let queue = self.queue.get_or_init(|| {
            let (sender, receiver) = mpsc::channel(QUEUED);
            tokio::spawn(publish(broker.downgrade(), receiver));
            sender
        });
        if queue.try_send(event).is_err() {
            broker.metrics().events_lost.inc();
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// Whether the broker does not let this user tell anything, now that it has answered so. Each such no closes the
    /// channel under all publishes, so nothing is told after the first.
    pub(crate) fn is_refused_by(&self, error: &SendError) -> bool {
        if let SendError::Refused(reason) = error
            && reason.contains("ACCESS_REFUSED")
            && !self.is_refused.swap(true, Ordering::Relaxed)
        {
            tracing::error!(reason, "the steps of tracked jobs cannot be told: grant the write right on the exchange");
        }
        self.is_refused()
    }
}

/// Publishes steps as long as their broker's handle exists.
async fn publish(broker: impl Fn() -> Option<Broker>, mut queue: mpsc::Receiver<JobEvent>) {
    let mut events = Vec::with_capacity(AT_ONCE);
    while queue.recv_many(&mut events, AT_ONCE).await > 0 {
        let Some(broker) = broker() else { return };
        let sends = events.drain(..).map(async |event| {
            let (target, message) = event.into_message();
            if let Err(error) = broker.send(&target, message, true).await {
                broker.teller().is_refused_by(&error);
                broker.metrics().events_lost.inc();
            }
        });
        join_all(sends).await;
    }
}
