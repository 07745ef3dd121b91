//! Publishes the jobs of committed transactions, and deletes them.
//!
//! A relay runs several claimers. Each claims a batch, publishes it with confirms while it holds no lock, and deletes
//! what was confirmed. A relay that dies in between leaves rows with a lease. Other relays claim them when the lease
//! has expired, so such rows may be published twice, under one id.
//!
//! * `settings`: what all parts of a relay share. `unavailable`: waits for the database to come back.
//! * `claimer`: claims and finishes batches. `publish`: publishes one batch.
//! * `notifications`: wakes the claimers when PostgreSQL notifies.

mod claimer;
mod notifications;
mod publish;
mod settings;
mod unavailable;

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use leveret::{Broker, unique::UniqueKeys};
use tokio::{
    select,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    claimer::Claimer,
    settings::RelaySettings,
    unavailable::{Reported, outlast},
};
use super::{
    enqueue::{MIGRATIONS, Outbox},
    metrics::Metrics,
};
use crate::{Error, Result};

pub use self::settings::Waker;

/// The pause between two counts of the rows, at least. Counting takes a fiftieth of the time at most.
const COUNT_EVERY: Duration = Duration::from_secs(5);
const COUNT_SHARE: u32 = 50;
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Publishes what was enqueued in an [`Outbox`], until it is stopped. Any number of relays may run side by side.
///
/// ```no_run
/// # async fn doc(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use leveret::{Broker, Config, shutdown_signal};
/// use leveret_sql::Relay;
///
/// let broker = Broker::amqp(Config::default())?;
/// let _health = broker.serve_health()?;
/// Relay::new(&pool, &broker).run(shutdown_signal()).await?;
/// # Ok(()) }
/// ```
///
/// # Promises
///
/// * A job of a committed transaction is published at least once; a job of any other transaction is not published. All
///   copies of a job have one id.
/// * While the broker is unreachable or blocked no try is counted, and the relay waits for it.
/// * A job that no queue takes, or that the broker refuses, is retried after 1 s, 2 s, 4 s … up to 5 minutes, and
///   set aside with its reason after the tenth try. A job that can never be published (its payload is too large, its
///   options do not decode) is set aside at once. Neither delays other jobs, except those behind it with the same
///   [order key](Outbox::enqueue_ordered). [`Outbox::retry`] brings jobs back that were set aside.
/// * A [unique](leveret::NewJob::unique) job whose key is taken is skipped, as its [`IfTaken`](leveret::IfTaken) says.
/// * A relay holds some 8 MiB of payloads and 500 jobs in memory for each batch in progress, and twice that if order
///   keys are used.
///
/// # Metrics
///
/// On the page of the broker handle's health server:
///
/// | metric | |
/// |---|---|
/// | `leveret_outbox_pending` | jobs that wait for a relay |
/// | `leveret_outbox_oldest_seconds` | the age of the oldest of them: alert on this one |
/// | `leveret_outbox_set_aside` | jobs that were set aside |
/// | `leveret_outbox_published_total` | jobs that this process relayed |
/// | `leveret_outbox_lease_conflicts_total` | jobs whose lease expired before they were finished: they were published twice |
#[derive(Debug)]
pub struct Relay {
    settings: RelaySettings,
    parallelism: usize,
    keep: Option<Duration>,
}

impl Relay {
    /// Makes a relay from the outbox of a database to a broker.
    pub fn new(outbox: impl Into<Outbox>, broker: &Broker) -> Self {
        let metrics =
            Metrics::new(broker).inspect_err(|error| tracing::warn!(%error, "the relay cannot make its metrics"));
        let (pool, publisher) = (outbox.into().pool, broker.publisher().fail_fast());
        let settings = RelaySettings::new(pool, publisher, broker.config().payload_limit, metrics.ok());
        Self { settings, parallelism: 2, keep: None }
    }

    /// Sets how long a batch may take until other relays claim it: 60 s by default. A lease shorter than the publish
    /// timeout makes duplicates while the broker is slow.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Sets how many batches are in progress at the same time: 2 by default. A relay does not run with 0.
    #[must_use]
    pub fn parallelism(mut self, batches: usize) -> Self {
        self.parallelism = batches;
        self
    }

    /// Sets how many jobs a batch has: 500 by default. A relay does not run with 0.
    #[must_use]
    pub fn batch(mut self, jobs: u16) -> Self {
        self.settings.batch = u64::from(jobs);
        self
    }

    /// Sets how often a job is tried before it is set aside, and the pause after its first failure, which doubles each
    /// time up to 5 minutes: 10 times and 1 s by default. A relay does not run with 0 tries.
    #[must_use]
    pub fn tries(mut self, tries: u32, backoff: Duration) -> Self {
        (self.settings.tries, self.settings.backoff) = (tries, backoff);
        self
    }

    /// Keeps published jobs for this time instead of deleting them at once.
    #[must_use]
    pub fn keep(mut self, published: Duration) -> Self {
        (self.keep, self.settings.keeps_published) = (Some(published), true);
        self
    }

    /// Sets the store for the keys of [unique](leveret::NewJob::unique) jobs: the one of all their publishers. Without
    /// one, the relay sets unique jobs aside.
    #[must_use]
    pub fn unique_in(mut self, keys: Arc<dyn UniqueKeys>) -> Self {
        self.settings.publisher = self.settings.publisher.unique_in(keys);
        self
    }

    /// The handle that wakes this relay after a commit of this process.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.settings.waker.clone()
    }

    /// Relays until `stop` is ready, then finishes the batches in progress.
    ///
    /// The relay outlasts any absence of the broker or the database, which it logs once. A statement that the database
    /// does not answer [in time](Outbox::statement_timeout) is abandoned with its connection, and retried on
    /// another one.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a setting of 0. [`Error::NoTables`](crate::Error::NoTables) and
    /// [`Error::Newer`](crate::Error::Newer) for tables that it does not know,
    /// [`Error::Database`](crate::Error::Database) for a lasting failure such as a missing privilege.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        self.check()?;
        let stopping = CancellationToken::new();
        // Boxed, because otherwise the future of the caller would be as large as these.
        let claimers = Box::pin(async {
            self.wait_for_tables(&stopping).await?;
            let claimers = (0..self.parallelism).map(|_| Claimer::new(&self.settings).run(&stopping));
            try_join_all(claimers).await
        });
        let background =
            Box::pin(async { tokio::join!(notifications::listen(&self.settings), self.count(), self.prune()) });
        let stop = async {
            stop.await;
            stopping.cancel();
            std::future::pending::<()>().await;
        };
        select! {
            ended = claimers => ended.map(drop),
            _ = background => Ok(()),
            () = stop => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        let settings = [
            ("Relay::parallelism", self.parallelism as u64),
            ("Relay::batch", self.settings.batch),
            ("Relay::tries", self.settings.tries.into()),
        ];
        match settings.into_iter().find(|(_, value)| *value == 0) {
            Some((setting, value)) => Err(Error::Setting { setting, value, allowed: "at least 1" }),
            None => Ok(()),
        }
    }

    /// Waits until the database is reachable. Missing tables are an error at once.
    async fn wait_for_tables(&self, stopping: &CancellationToken) -> Result<()> {
        let mut reported = Reported::default();
        while !stopping.is_cancelled() {
            let Err(error) = MIGRATIONS.check(&self.settings.pool).await else { return Ok(()) };
            outlast(error, &mut reported, stopping).await?;
        }
        Ok(())
    }

    async fn count(&self) {
        let Some(metrics) = &self.settings.metrics else { return std::future::pending().await };
        let outbox = Outbox { pool: self.settings.pool.clone() };
        loop {
            let began = Instant::now();
            // The claimers log a database that is unreachable.
            if let Ok(status) = outbox.status().await {
                metrics.show(&status);
            }
            sleep(COUNT_EVERY.max(began.elapsed() * COUNT_SHARE)).await;
        }
    }

    async fn prune(&self) {
        let Some(keep) = self.keep else { return std::future::pending().await };
        let outbox = Outbox { pool: self.settings.pool.clone() };
        loop {
            drop(outbox.prune(keep).await);
            sleep(PRUNE_EVERY).await;
        }
    }
}
