//! The other end of the outbox: what was committed is published, then deleted.
//!
//! Each lane claims a batch, publishes it with confirms and no lock held, and deletes what was confirmed. Whoever dies in
//! between leaves rows with a lease, which others claim when it is over: those may be published twice, with one id.

mod publish;

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use leveret::{Broker, Publisher};
use sqlx::{
    Executor, PgConnection, PgPool, Row,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::publish::{Batch, publish};
use super::{
    claim::{self, Leased, Place, Wanted},
    enqueue::{MIGRATIONS, Outbox},
    metrics::Metrics,
};
use crate::{
    Error, Result,
    db::{Pool, within},
};

/// The waits of a lane that finds nothing: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How long a relay waits while its broker or its database is away.
const AWAY: Duration = Duration::from_millis(500);
/// The rows are counted this often at most, and in no more than a fiftieth of the time.
const COUNT_EVERY: Duration = Duration::from_secs(5);
const COUNT_SHARE: u32 = 50;
/// After so much silence a relay asks whether it would still be notified.
const HEARD_WITHIN: Duration = Duration::from_secs(30);
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Publishes what was enqueued in an [`Outbox`], until it is stopped. Any number of them may run side by side.
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
/// # What it promises
///
/// * A job of a committed transaction is published at least once; one of another transaction never. All copies of a job
///   have one id.
/// * While the broker is away or blocked nothing is counted against a job, and the relay waits for it.
/// * A job that no queue takes, or that the broker refuses, is tried again after 1 s, 2 s, 4 s … up to 5 minutes, and set
///   aside with its reason after the tenth time. One that could never be published (its payload is too large, its
///   options do not decode) is set aside at once. Neither holds up others, except those behind it with the same
///   [order key](crate::Entry::order_key). [`Outbox::retry`] brings them back.
/// * It holds some 8 MiB of payloads and 500 jobs in memory for each lane, and twice that if order keys are used.
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
/// | `leveret_outbox_published_total` | jobs relayed by this process |
/// | `leveret_outbox_lease_conflicts_total` | jobs whose lease was over before they were done: they were published twice |
#[derive(Debug)]
pub struct Relay {
    pool: Pool,
    publisher: Publisher,
    payload_limit: usize,
    metrics: Option<Metrics>,
    waker: Waker,
    lease: Duration,
    lanes: usize,
    batch: u64,
    tries: u32,
    backoff: Duration,
    keep: Option<Duration>,
}

/// Has a relay look at once, instead of within a second. See [`Relay::waker`].
#[derive(Clone, Debug)]
pub struct Waker(Arc<watch::Sender<()>>);

impl Waker {
    /// To be called after a commit, by whoever shares a process with the relay. PostgreSQL tells relays by itself.
    pub fn wake(&self) {
        self.0.send_replace(());
    }
}

impl Relay {
    /// A relay from the outbox of a database to a broker.
    pub fn new(outbox: impl Into<Outbox>, broker: &Broker) -> Self {
        let metrics = Metrics::new(broker).inspect_err(|error| tracing::warn!(%error, "no metrics of the outbox"));
        Self {
            pool: outbox.into().pool,
            publisher: broker.publisher().fail_fast(),
            payload_limit: broker.config().payload_limit,
            metrics: metrics.ok(),
            waker: Waker(Arc::new(watch::Sender::new(()))),
            lease: Duration::from_secs(60),
            lanes: 2,
            batch: 500,
            tries: 10,
            backoff: Duration::from_secs(1),
            keep: None,
        }
    }

    /// How long a batch may take, before others take it for abandoned: 60 s by default. Less than the publish timeout
    /// makes duplicates when the broker is slow.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How many batches are under way at once: 2 by default.
    #[must_use]
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes.max(1);
        self
    }

    /// How many jobs are claimed at once: 500 by default.
    #[must_use]
    pub fn batch(mut self, jobs: u16) -> Self {
        self.batch = u64::from(jobs.max(1));
        self
    }

    /// How often a job is tried before it is set aside, and how long after its first failure it is tried again, which
    /// is doubled each time up to 5 minutes: 10 times and 1 s by default.
    #[must_use]
    pub fn tries(mut self, tries: u32, backoff: Duration) -> Self {
        (self.tries, self.backoff) = (tries.max(1), backoff);
        self
    }

    /// Marks jobs as published and deletes them after this time, instead of at once.
    #[must_use]
    pub fn keep(mut self, published: Duration) -> Self {
        self.keep = Some(published);
        self
    }

    /// The signal for transactions of this process.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Relays until `stop` is ready, then finishes the batches in hand. It outlasts any absence of the broker or the
    /// database, which it logs once. A statement that the database does not answer
    /// [in time](Outbox::statement_timeout) is given up with its connection, and tried on another.
    ///
    /// # Errors
    ///
    /// [`Error::NoTables`] and [`Error::Newer`] for tables that it does not know, [`Error::Database`] for what does not
    /// pass by itself, such as a missing right.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let stopping = CancellationToken::new();
        // Boxed, because they would make the future of whoever runs this as large as they are.
        let lanes = Box::pin(async {
            self.start(&stopping).await?;
            try_join_all((0..self.lanes).map(|_| self.lane(&stopping))).await
        });
        let besides = Box::pin(async { tokio::join!(self.listen(), self.count(), self.prune()) });
        let stop = async {
            stop.await;
            stopping.cancel();
            std::future::pending::<()>().await;
        };
        select! {
            ended = lanes => ended.map(drop),
            _ = besides => Ok(()),
            () = stop => Ok(()),
        }
    }

    /// Waits for the database, and for nothing else.
    async fn start(&self, stopping: &CancellationToken) -> Result<()> {
        let mut told = false;
        while !stopping.is_cancelled() {
            let Err(error) = MIGRATIONS.check(&self.pool).await else { return Ok(()) };
            self.outlast(error, &mut told, stopping).await?;
        }
        Ok(())
    }

    async fn lane(&self, stopping: &CancellationToken) -> Result<()> {
        let (mut lane, mut told) = (Lane::new(self), false);
        while !stopping.is_cancelled() {
            match lane.round(stopping).await {
                Ok(()) => told = false,
                Err(error) => self.outlast(error, &mut told, stopping).await?,
            }
        }
        Ok(())
    }

    async fn outlast(&self, error: Error, told: &mut bool, stopping: &CancellationToken) -> Result<()> {
        if !error.is_unavailable() {
            return Err(error);
        }
        if !std::mem::replace(told, true) {
            tracing::warn!(error = crate::chain(&error), "the outbox's database is away");
        }
        drop(timeout(AWAY, stopping.cancelled()).await);
        Ok(())
    }

    /// Turns notifications of PostgreSQL into wakes. They are hints: whatever fails here costs a second.
    async fn listen(&self) {
        let Some(pool) = self.pool.postgres() else { return std::future::pending().await };
        // Of its own, because it keeps a connection for as long as the relay runs.
        let own = PgPoolOptions::new().max_connections(2).acquire_timeout(self.pool.limit);
        let own = own.connect_lazy_with((*pool.connect_options()).clone());
        while !matches!(self.heed(&own).await, Ok(Unheard)) {
            sleep(LAST_WAIT).await;
        }
        tracing::info!(
            "a pooler before the outbox's database passes on no notifications: the relay looks every second"
        );
        std::future::pending::<()>().await;
    }

    /// Until the connection fails.
    async fn heed(&self, own: &PgPool) -> Result<Unheard> {
        if within(self.pool.limit, is_pooled(own)).await? {
            return Ok(Unheard);
        }
        let connect = async { Ok(PgListener::connect_with(own).await?) };
        let mut listener = within(self.pool.limit, connect).await?;
        within(self.pool.limit, async { Ok(listener.listen("leveret_outbox").await?) }).await?;
        loop {
            if let Ok(heard) = timeout(HEARD_WITHIN, listener.recv()).await {
                heard?;
                self.waker.wake();
            } else {
                // A connection that leads nowhere is as quiet as one on which nothing happens.
                within(self.pool.limit, async { Ok(listener.execute("SELECT 1").await?) }).await?;
            }
        }
    }

    async fn count(&self) {
        let Some(metrics) = &self.metrics else { return std::future::pending().await };
        let outbox = Outbox { pool: self.pool.clone() };
        loop {
            let began = Instant::now();
            // When the database is away the lanes say so.
            if let Ok(status) = outbox.status().await {
                metrics.show(&status);
            }
            sleep(COUNT_EVERY.max(began.elapsed() * COUNT_SHARE)).await;
        }
    }

    async fn prune(&self) {
        let Some(keep) = self.keep else { return std::future::pending().await };
        let outbox = Outbox { pool: self.pool.clone() };
        loop {
            drop(outbox.prune(keep).await);
            sleep(PRUNE_EVERY).await;
        }
    }
}

/// No notification will ever come.
struct Unheard;

const POOLER_CHECKS: usize = 20;

/// Whether two transactions on one connection may be in different sessions. To listen there would leave the session
/// listening for whichever client gets it next.
///
/// Asked often, because a busy pooler may by chance give two connections a session each for a while.
async fn is_pooled(pool: &PgPool) -> Result<bool> {
    let (mut one, mut other) = (pool.acquire().await?, pool.acquire().await?);
    let sessions = (session(&mut one).await?, session(&mut other).await?);
    let mut is_pooled = sessions.0 == sessions.1;
    for _ in 0..POOLER_CHECKS {
        is_pooled |= sessions != (session(&mut one).await?, session(&mut other).await?);
    }
    Ok(is_pooled)
}

async fn session(on: &mut PgConnection) -> Result<i32> {
    Ok(sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(on).await?.try_get(0)?)
}

/// One claim after the other.
struct Lane<'r> {
    relay: &'r Relay,
    woken: watch::Receiver<()>,
    place: Place,
    wait: Duration,
    away: bool,
}

impl<'r> Lane<'r> {
    fn new(relay: &'r Relay) -> Self {
        Self { relay, woken: relay.waker.0.subscribe(), place: Place::default(), wait: FIRST_WAIT, away: false }
    }

    /// Claims, publishes and finishes one batch; waits if there is none.
    async fn round(&mut self, stopping: &CancellationToken) -> Result<()> {
        let relay = self.relay;
        self.woken.mark_unchanged();
        // While the broker is away one job is enough to see whether it is back.
        let rows = if self.away { 1 } else { relay.batch };
        let token = fastrand::i64(..);
        let until = Instant::now() + relay.lease;
        let wanted = Wanted { token, rows, lease: relay.lease, payload_limit: relay.payload_limit };
        let mut leased = claim::claim(&relay.pool, &wanted).await?;
        let (ordered, more) = claim::claim_ordered(&relay.pool, &wanted, &mut self.place).await?;
        leased.extend(ordered);
        if leased.is_empty() {
            if !more {
                self.rest(stopping).await;
            }
            return Ok(());
        }
        self.wait = FIRST_WAIT;
        let away = self.relay(token, until, leased).await?;
        if away {
            if !self.away {
                tracing::warn!("the broker is away: the outbox waits for it");
            }
            drop(timeout(AWAY, stopping.cancelled()).await);
        }
        self.away = away;
        Ok(())
    }

    async fn rest(&mut self, stopping: &CancellationToken) {
        let woken = select! {
            () = stopping.cancelled() => true,
            woken = self.woken.changed() => woken.is_ok(),
            () = sleep(self.wait) => false,
        };
        self.wait = if woken { FIRST_WAIT } else { (self.wait * 2).min(LAST_WAIT) };
    }

    /// Publishes what is leased, and writes down what became of it; whether the broker is away.
    async fn relay(&self, token: i64, until: Instant, leased: Vec<Leased>) -> Result<bool> {
        let relay = self.relay;
        let claimed = leased.len() as u64;
        let batch = publish(relay, until, leased).await;
        let mut ours = 0;
        loop {
            match self.finish(token, &batch, &mut ours).await {
                Ok(()) => break,
                // What was published need not be published again, if the database is back in time.
                Err(error) if error.is_unavailable() && Instant::now() < until => sleep(AWAY).await,
                Err(error) => return Err(error),
            }
        }
        if let Some(metrics) = &relay.metrics {
            metrics.published.inc_by(batch.published.len() as u64);
            metrics.conflicts.inc_by(claimed.saturating_sub(ours));
        }
        Ok(batch.away)
    }

    /// May be done again.
    async fn finish(&self, token: i64, batch: &Batch, ours: &mut u64) -> Result<()> {
        let pool = &self.relay.pool;
        if !batch.published.is_empty() {
            *ours += claim::finish(pool, token, &batch.published, self.relay.keep.is_some()).await?;
        }
        for (fate, rows) in &batch.failed {
            *ours += claim::fail(pool, token, rows, fate).await?;
        }
        if !batch.untried.is_empty() {
            *ours += claim::release(pool, token, &batch.untried).await?;
        }
        Ok(())
    }
}
