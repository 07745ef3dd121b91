//! A projection as a user builds it.

use std::{fmt, time::Duration};

use leveret::{
    Broker, Event,
    event_log::{LoggedEvent, Patterns},
    names,
};

use super::{
    handler::{
        Applied, AsyncFn1, AsyncFn2, Emptying, Erased, ProjectionConnection, Typed, erase, erase_emptying, erase_raw,
    },
    lead::Runner,
    metrics::Metrics,
    table::Table,
    topics,
};
use crate::{Error, Result, db::Pool};

const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// A view that is computed from the log of events. See [the module](crate::projection).
///
/// A handler is an `async fn(Event, &mut PgConnection)` or `async fn(Event, &mut SqliteConnection)`. The connection is in a
/// transaction with the position in the log: a handler writes through it only, and must not end the transaction. Its
/// statements have no time limit except that of the [handler](Self::timeout).
///
/// # Metrics
///
/// On the page of the broker handle's health server, each with the label `projection`:
///
/// | metric | |
/// |---|---|
/// | `leveret_projection_leading` | 1 if this process applies the events |
/// | `leveret_projection_failing` | 1 while the projection stands still because of an error: alert on this one |
/// | `leveret_projection_position` | the offset of the last event that was read |
/// | `leveret_projection_lag` | offsets between the position and the end of the log |
/// | `leveret_projection_events_total` | events by `outcome`: `applied`, `repeated`, `skipped` |
/// | `leveret_projection_failures_total` | failed attempts |
#[must_use]
pub struct Projection<C> {
    name: String,
    topics: Vec<String>,
    pub(super) handlers: Vec<Erased<C>>,
    pub(super) empty: Emptying<C>,
    pub(super) settings: Settings,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) batch: usize,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) remembered: u64,
    lease: Duration,
}

impl<C: ProjectionConnection> Projection<C> {
    /// Creates a projection without handlers. The name, of 1 to 128 bytes, is its key in the database. Two programs
    /// must not use one name.
    ///
    /// `empty` empties the view. It runs in the transaction in which the projection starts with the first event of the
    /// log: when it runs for the first time, and after each [reset](crate::Projections::reset).
    pub fn new<F>(name: impl Into<String>, empty: F) -> Self
    where
        F: for<'t> AsyncFn1<&'t mut C, Returned: Applied> + Send + Sync + 'static,
    {
        let settings = Settings {
            batch: 500,
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(30),
            remembered: 100_000,
            lease: Duration::from_secs(15),
        };
        let empty = erase_emptying(empty);
        Self { name: name.into(), topics: Vec::new(), handlers: Vec::new(), empty, settings }
    }

    /// Adds a handler of the events of one type. An error of any type is retried.
    pub fn on<E, F>(self, handler: F) -> Self
    where
        E: Event,
        F: for<'t> AsyncFn2<E, &'t mut C, Returned: Applied> + Send + Sync + 'static,
    {
        self.with(E::TOPIC.to_owned(), erase(handler))
    }

    /// Adds a handler of the events whose topic matches a pattern: `*` stands for one word, `#` for any number of words.
    /// It gets each event as the log has it.
    ///
    /// The most specific handler of a topic gets its events. Return the error of [`LoggedEvent::decode`] as it is, so that
    /// an event that does not decode stops the projection instead of being retried.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize, leveret::Event)] #[event(topic = "order.refunded")]
    /// # struct OrderRefunded { order: String }
    /// use leveret::event_log::LoggedEvent;
    /// use leveret_sql::Projection;
    /// use sqlx::PgConnection;
    ///
    /// async fn count(event: LoggedEvent, tx: &mut PgConnection) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     if event.topic() == "order.refunded" {
    ///         let refunded: OrderRefunded = event.decode()?;
    ///         println!("{} is refunded", refunded.order);
    ///     }
    ///     let sql = "INSERT INTO counts VALUES ($1, 1) ON CONFLICT (topic) DO UPDATE SET count = counts.count + 1";
    ///     sqlx::query(sql).bind(event.topic()).execute(tx).await?;
    ///     Ok(())
    /// }
    /// # async fn empty(_: &mut PgConnection) -> sqlx::Result<()> { Ok(()) }
    /// let counts = Projection::new("counts", empty).on_pattern("order.*", count);
    /// # let _ = counts;
    /// ```
    pub fn on_pattern<F>(self, pattern: impl Into<String>, handler: F) -> Self
    where
        F: for<'t> AsyncFn2<LoggedEvent, &'t mut C, Returned: Applied> + Send + Sync + 'static,
    {
        self.with(pattern.into(), erase_raw(handler))
    }

    fn with(mut self, topic: String, handler: Erased<C>) -> Self {
        self.topics.push(topic);
        self.handlers.push(handler);
        self
    }

    /// Sets how many events one transaction applies at most: 500 by default. A projection does not run with 0.
    pub fn batch(mut self, events: u16) -> Self {
        self.settings.batch = events.into();
        self
    }

    /// Sets how long a transaction waits for more events after its first: 100 ms by default. Views are that much later than
    /// the log.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.settings.interval = interval;
        self
    }

    /// Sets how long a handler may take for one event, and the function that empties the view: 30 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Sets how long the lease of a silent process lasts: 15 s by default, at least 1 s. After that another process
    /// continues.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Sets how many ids of applied events are remembered, at least: 100,000 by default. A projection does not run with 0.
    ///
    /// A repeat of an emit that comes later than so many other events of this projection's topics is applied again. At *r*
    /// such events a second the default covers 100,000 / *r* seconds. A relay repeats an emit when the lease of its batch
    /// has expired, after 60 s by default, or when its database is back. An event without an id is never a repeat.
    ///
    /// The ids are in the table `leveret_projection_ids`, some 40 bytes each, and twice as much in the memory of the
    /// process that applies events.
    pub fn remember(mut self, events: u32) -> Self {
        self.settings.remembered = events.into();
        self
    }

    /// Applies events until `stop` is ready. Then the running transaction is rolled back, and another process may continue
    /// at once.
    ///
    /// It declares the log if it does not exist. It outlasts any absence of the broker and of the database. Run it
    /// beside a worker in the same process, or in one of its own.
    ///
    /// ```no_run
    /// # async fn empty(_: &mut sqlx::PgConnection) -> sqlx::Result<()> { Ok(()) }
    /// # #[derive(serde::Serialize, serde::Deserialize, leveret::Event)] #[event(topic = "order.placed")] struct OrderPlaced {}
    /// # async fn add(_: OrderPlaced, _: &mut sqlx::PgConnection) -> sqlx::Result<()> { Ok(()) }
    /// # async fn doc(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use leveret::{Broker, Config};
    /// use leveret_sql::Projection;
    /// use tokio_util::sync::CancellationToken;
    ///
    /// let (broker, stop) = (Broker::amqp(Config::default())?, CancellationToken::new());
    /// let stopped = stop.clone().cancelled_owned();
    /// let task = tokio::spawn(async move {
    ///     Projection::new("revenue", empty).on(add).run(&broker, &pool, stopped).await
    /// });
    /// stop.cancel();
    /// task.await??;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`Error::InvalidProjection`], [`Error::Setting`]: the projection cannot run as it is built.
    /// * [`Error::OtherTopics`]: another process runs a projection of this name, with topics that have no handler here.
    ///   A version that only adds topics waits instead, until the old one has stopped.
    /// * [`Error::LogChanged`], [`Error::LogTruncated`], [`Error::Undecodable`]: it stopped, and an operator must act.
    /// * [`Error::Log`]: the broker lastingly refuses the log.
    /// * [`Error::NoTables`], [`Error::Newer`], [`Error::Database`]: a lasting failure of the database.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped, the running transaction is rolled back. Another process continues when the lease has expired.
    pub async fn run(
        self,
        broker: &Broker,
        pool: &sqlx::Pool<<C as Typed>::Database>,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        let patterns = self.check()?;
        let pool: Pool = C::pool(pool);
        let metrics = Metrics::new(&self.name, broker)
            .map_err(|error| self.invalid(format!("its metrics cannot be registered: {error}")))?;
        let (name, topics) = (self.name.clone(), topics::text(&self.topics));
        let table = Table { pool, name, topics, lease: self.settings.lease };
        Runner::new(&self, patterns, broker, (table, metrics)).run(stop).await
    }

    fn check(&self) -> Result<Patterns> {
        let Settings { batch, remembered, lease, .. } = self.settings;
        for (setting, value) in [("Projection::batch", batch as u64), ("Projection::remember", remembered)] {
            if value == 0 {
                return Err(Error::Setting { setting, value, allowed: "at least 1" });
            }
        }
        if lease < SHORTEST_LEASE {
            let value = leveret::time::millis(lease);
            return Err(Error::Setting { setting: "Projection::lease", value, allowed: "at least 1000 ms" });
        }
        if !(1..=128).contains(&self.name.len()) || self.name.contains('\0') {
            return Err(self.invalid("its name must have 1 to 128 bytes, none of them NUL".to_owned()));
        }
        if self.topics.is_empty() {
            return Err(self.invalid("it has no handler: add one with Projection::on".to_owned()));
        }
        for topic in &self.topics {
            names::pattern(topic).map_err(|rule| self.invalid(format!("its topic {topic:?}: {rule}")))?;
        }
        let topics: Vec<_> = self.topics.iter().zip(0..).map(|(topic, number)| (topic.as_str(), number)).collect();
        let tie = |(one, other)| {
            self.invalid(format!("its patterns {one:?} and {other:?} match the same topics, and none is more specific"))
        };
        Patterns::new(&topics).map_err(tie)
    }

    fn invalid(&self, reason: String) -> Error {
        Error::InvalidProjection { projection: self.name.clone(), reason }
    }
}

impl<C> fmt::Debug for Projection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, topics, settings, .. } = self;
        f.debug_struct("Projection")
            .field("name", name)
            .field("topics", topics)
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}
