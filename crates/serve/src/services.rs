//! The state that all parts of the server share.

use std::{sync::Arc, time::Duration};

use leveret::{Broker, Publisher, catalogue::Catalogue, reader};
use leveret_store::Store;
use tokio::{
    sync::SetOnce,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    consumers::Consumers,
    dead::{DeadLetterService, redact::RedactionRules},
    publisher_task::PublisherTask,
    recorder::Recorder,
    schema::Schemas,
    waiters::Waiters,
    workflow_metrics::WorkflowMetrics,
};

/// Longest wait of a submission for the first connection to the broker.
const PREPARED_WITHIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(2);

/// The broker, the store, and the state in memory beside them. Clones are cheap and share everything.
///
/// The methods are in the module [`jobs`](crate::jobs).
#[derive(Clone, Debug)]
pub struct Services {
    /// The broker that jobs are published to.
    pub broker: Broker,
    /// A publisher that fails at once while the broker is unreachable.
    pub publisher: Publisher,
    /// The store of tracked jobs and dead letters.
    pub store: Store,
    /// The jobs that workers can run.
    pub catalogue: Catalogue,
    /// Operations on dead letters.
    pub dead: DeadLetterService,
    pub(crate) default_job: Option<Arc<str>>,
    pub(crate) redact: Arc<RedactionRules>,
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) waiters: Waiters,
    pub(crate) recorder: Recorder,
    pub(crate) workflow_messages: PublisherTask,
    pub(crate) workflow_metrics: WorkflowMetrics,
    pub(crate) consumers: Consumers,
    prepared: Arc<SetOnce<()>>,
    _preparing: Arc<AbortOnDropHandle<()>>,
}

impl Services {
    /// Creates the services on a broker and a store.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[must_use]
    pub fn new(broker: &Broker, store: Store) -> Self {
        let (waiters, catalogue) = (Waiters::default(), Catalogue::follow(broker));
        let prepared = Arc::default();
        let preparing = tokio::spawn(prepare(broker.clone(), catalogue.clone(), Arc::clone(&prepared)));
        Self {
            broker: broker.clone(),
            publisher: broker.publisher().fail_fast(),
            dead: DeadLetterService::new(broker, &store, &catalogue),
            catalogue,
            default_job: None,
            redact: Arc::default(),
            schemas: Arc::default(),
            recorder: Recorder::start(store.clone(), waiters.clone()),
            waiters,
            store,
            workflow_messages: PublisherTask::default(),
            workflow_metrics: WorkflowMetrics::default(),
            consumers: Consumers::default(),
            prepared,
            _preparing: Arc::new(AbortOnDropHandle::new(preparing)),
        }
    }

    pub(crate) fn is_prepared(&self) -> bool {
        self.prepared.initialized()
    }

    /// Waits a short time until the catalogue is read and the queue of status updates exists. The updates of a job that is
    /// published before would be lost. The error is the reason of the delay.
    pub(crate) async fn prepared(&self) -> Result<(), String> {
        let waited = timeout(PREPARED_WITHIN, self.prepared.wait()).await;
        let reason = || self.broker.trouble().unwrap_or("the server is starting").to_owned();
        waited.map(drop).map_err(|_| reason())
    }
}

async fn prepare(broker: Broker, catalogue: Catalogue, prepared: Arc<SetOnce<()>>) {
    let mut logged = String::new();
    while let Err(error) = reader::declare_status_queue(&broker).await {
        let reason = error.to_string();
        if reason != logged {
            tracing::warn!(error = reason, "cannot declare the queue of status updates, retrying");
            logged = reason;
        }
        sleep(PAUSE).await;
    }
    while !catalogue.ready().await {
        sleep(PAUSE).await;
    }
    // It is set only once, here.
    drop(prepared.set(()));
}
