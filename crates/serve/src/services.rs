//! What every part of the server works with.

use std::{sync::Arc, time::Duration};

use leveret::{Broker, Publisher, catalogue::Catalogue, feed};
use leveret_store::Store;
use tokio::{
    sync::SetOnce,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    dead::{DeadLetterService, redact::RedactionRules},
    recorder::Recorder,
    schema::Schemas,
    waiters::Waiters,
};

/// How long the first submissions wait for the broker.
const PREPARED_WITHIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(2);

/// The broker, the store, and what is kept in memory beside them. Clones are cheap and share all.
///
/// Its methods are in the modules that they belong to: [`jobs`].
#[derive(Clone, Debug)]
pub struct Services {
    /// The broker that jobs are published to.
    pub broker: Broker,
    /// Publishes at once or not at all.
    pub publisher: Publisher,
    /// Where tracked jobs and dead letters are kept.
    pub store: Store,
    /// The jobs that workers can run.
    pub catalogue: Catalogue,
    /// Where dead letters are looked after.
    pub dead: DeadLetterService,
    pub(crate) default_job: Option<Arc<str>>,
    pub(crate) redact: Arc<RedactionRules>,
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) waiters: Waiters,
    pub(crate) recorder: Recorder,
    prepared: Arc<SetOnce<()>>,
    _preparing: Arc<AbortOnDropHandle<()>>,
}

impl Services {
    /// The services on a broker and a store.
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
            prepared,
            _preparing: Arc::new(AbortOnDropHandle::new(preparing)),
        }
    }

    pub(crate) fn is_prepared(&self) -> bool {
        self.prepared.initialized()
    }

    /// Waits, but not for long, until the catalogue was read and steps are kept: a job that is published before would
    /// never be heard of.
    pub(crate) async fn prepared(&self) -> Result<(), String> {
        let waited = timeout(PREPARED_WITHIN, self.prepared.wait()).await;
        let reason = || self.broker.trouble().unwrap_or("the server is starting").to_owned();
        waited.map(drop).map_err(|_| reason())
    }
}

async fn prepare(broker: Broker, catalogue: Catalogue, prepared: Arc<SetOnce<()>>) {
    let mut told = String::new();
    while let Err(reason) = feed::keep_events(&broker).await {
        if reason != told {
            tracing::warn!(error = reason, "cannot make the queue of the steps of tracked jobs, trying again");
            told = reason;
        }
        sleep(PAUSE).await;
    }
    while !catalogue.ready().await {
        sleep(PAUSE).await;
    }
    // It is set here alone.
    drop(prepared.set(()));
}
