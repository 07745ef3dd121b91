//! A database with a view, and the events that it is computed from.

use std::{collections::BTreeMap, time::Duration};

use leveret::{Broker, Config, Event};
use leveret_harness::{Database, eventually_eq, shared_node};
use leveret_sql::{ProjectionStatus, Projections, Result};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::outbox::stage::Pool;

pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Days of the view.
pub(crate) const DAYS: i64 = 3;
pub(crate) const NAME: &str = "revenue";

#[derive(Clone, Debug, Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
pub(crate) struct Placed {
    pub(crate) number: i64,
    pub(crate) cents: i64,
    /// The handler's further act: "" or "fault", "hide", "panic", "halt".
    pub(crate) act: String,
}

pub(crate) fn placed(number: i64) -> Placed {
    Placed { number, cents: 100 + number, act: String::new() }
}

/// The view: by day the sum, the number of orders, and a digest of their order.
pub(crate) type View = BTreeMap<i64, (i64, i64, i64)>;

const SCHEMA: &str = "
    CREATE TABLE revenue (day BIGINT PRIMARY KEY, cents BIGINT NOT NULL, orders BIGINT NOT NULL, trail BIGINT NOT NULL);
    CREATE TABLE others (topic TEXT NOT NULL, number BIGINT NOT NULL);
    CREATE TABLE faults (number BIGINT PRIMARY KEY);";

/// The settings of a projection in a test.
#[derive(Clone, Copy)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    /// The topics of the handler that notes events, besides `order.placed`.
    pub(crate) patterns: &'static [&'static str],
    pub(crate) batch: u16,
    pub(crate) lease: Duration,
    pub(crate) remember: u32,
    pub(crate) timeout: Duration,
}

impl Default for Set {
    fn default() -> Self {
        let (lease, timeout) = (Duration::from_secs(15), Duration::from_secs(30));
        Self { name: NAME, patterns: &["order.#"], batch: 500, lease, remember: 100_000, timeout }
    }
}

macro_rules! on_connection {
    ($database:ident, $connection:ty) => {
        pub(crate) mod $database {
            use std::time::Duration;

            use super::{DAYS, Placed, Set};
            use leveret::event_log::LoggedEvent;
            use leveret_sql::Projection;

            type BoxError = Box<dyn std::error::Error + Send + Sync>;

            pub(crate) async fn add(event: Placed, tx: &mut $connection) -> Result<(), BoxError> {
                match event.act.as_str() {
                    "fault" => {
                        let fault = sqlx::query_scalar::<_, i64>("SELECT number FROM faults WHERE number = $1");
                        if fault.bind(event.number).fetch_optional(&mut *tx).await?.is_some() {
                            return Err(format!("order {} has a fault", event.number).into());
                        }
                    }
                    "hide" => {
                        sqlx::query("INSERT INTO faults VALUES ($1), ($1)").bind(7_i64).execute(tx).await.unwrap_err();
                        return Ok(());
                    }
                    "panic" => panic!("no such customer"),
                    "halt" => std::future::pending().await,
                    _ => {}
                }
                let sql = "INSERT INTO revenue VALUES ($1, $2, 1, $3) ON CONFLICT (day) DO UPDATE SET
                           cents = revenue.cents + $2, orders = revenue.orders + 1,
                           trail = (revenue.trail * 31 + $3) % 1000003";
                let day = event.number % DAYS;
                sqlx::query(sql).bind(day).bind(event.cents).bind(event.number).execute(tx).await?;
                Ok(())
            }

            async fn note(event: LoggedEvent, tx: &mut $connection) -> Result<(), BoxError> {
                let number = event.json()?["number"].as_i64().unwrap_or_default();
                let sql = "INSERT INTO others VALUES ($1, $2)";
                sqlx::query(sql).bind(event.topic().to_owned()).bind(number).execute(tx).await?;
                Ok(())
            }

            async fn empty(tx: &mut $connection) -> sqlx::Result<()> {
                sqlx::query("DELETE FROM revenue").execute(&mut *tx).await?;
                sqlx::query("DELETE FROM others").execute(tx).await?;
                Ok(())
            }

            pub(crate) fn projection(set: Set) -> Projection<$connection> {
                let mut projection = Projection::new(set.name, empty).on(add);
                for pattern in set.patterns {
                    projection = projection.on_pattern(*pattern, note);
                }
                let projection = projection.interval(Duration::from_millis(5)).timeout(set.timeout);
                projection.batch(set.batch).lease(set.lease).remember(set.remember)
            }
        }
    };
}

on_connection!(of_postgres, sqlx::PgConnection);
on_connection!(of_sqlite, sqlx::SqliteConnection);

pub(crate) struct Stage {
    pub(crate) pool: Pool,
    pub(crate) broker: Broker,
    pub(crate) projections: Projections,
    pub(crate) database: Database,
}

pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<Result<()>>,
}

impl Running {
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.send(()).unwrap_or(());
        self.task.await.unwrap()
    }

    /// Waits until the projection stops by itself, and returns why.
    pub(crate) async fn ended(self) -> leveret_sql::Error {
        tokio::time::timeout(LONG, self.task).await.unwrap().unwrap().unwrap_err()
    }
}

pub(crate) fn projections(pool: &Pool) -> Projections {
    match pool {
        Pool::Postgres(pool) => Projections::new(pool),
        Pool::Sqlite(pool) => Projections::new(pool),
    }
}

/// Runs a projection on a pool, until it is stopped.
pub(crate) fn run(pool: &Pool, broker: &Broker, set: Set) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let (pool, broker) = (pool.clone(), broker.clone());
    let task = tokio::spawn(async move {
        let stopped = async move { drop(stopped.await) };
        match &pool {
            Pool::Postgres(pool) => of_postgres::projection(set).run(&broker, pool, stopped).await,
            Pool::Sqlite(pool) => of_sqlite::projection(set).run(&broker, pool, stopped).await,
        }
    });
    Running { stop, task }
}

/// The handle of a broker, with metrics of its own.
pub(crate) fn connect(url: &str) -> Broker {
    let (amqp_url, http_addr) = (vec![url.to_owned()], ([127, 0, 0, 1], 0).into());
    Broker::amqp(Config { amqp_url, http_addr, ..Config::default() }).unwrap()
}

impl Stage {
    /// A database with an empty view, and the broker in memory.
    pub(crate) async fn new(database: Database) -> Self {
        Self::with(database, Broker::memory()).await
    }

    /// The same with a RabbitMQ vhost of its own; the second value is its address.
    pub(crate) async fn on_rabbitmq(database: Database) -> (Self, String) {
        let url = shared_node().await.vhost().await.url();
        (Self::with(database, connect(&url)).await, url)
    }

    /// The same with a broker at an address.
    pub(crate) async fn at(database: Database, url: &str) -> Self {
        Self::with(database, connect(url)).await
    }

    async fn with(database: Database, broker: Broker) -> Self {
        drop(tracing_subscriber::fmt().with_test_writer().with_env_filter("leveret=info,leveret_sql=info").try_init());
        let pool = Pool::open(&database.url).await;
        let projections = Projections::migrate(&projections(&pool)).await.unwrap();
        pool.run(SCHEMA).await;
        leveret::event_log::declare(&broker).await.unwrap();
        Self { pool, broker, projections, database }
    }

    pub(crate) fn run(&self, set: Set) -> Running {
        run(&self.pool, &self.broker, set)
    }

    pub(crate) async fn emit(&self, event: &Placed) {
        self.broker.publisher().emit(event).id(format!("order-{}", event.number)).await.unwrap();
    }

    pub(crate) async fn emit_all(&self, numbers: impl IntoIterator<Item = i64>) {
        for number in numbers {
            self.emit(&placed(number)).await;
        }
    }

    pub(crate) async fn view(&self) -> View {
        view(&self.pool).await
    }

    /// Waits until the view has what these orders make.
    pub(crate) async fn shows(&self, numbers: impl IntoIterator<Item = i64>) {
        let expected = of(numbers);
        eventually_eq("the view is complete", LONG, expected, async || self.view().await).await;
    }

    pub(crate) async fn status(&self) -> ProjectionStatus {
        self.projections.list().await.unwrap().into_iter().find(|status| status.name == NAME).unwrap()
    }

    /// Waits until the projection stands still at an event, and returns the status.
    pub(crate) async fn stands_at(&self, offset: u64) -> ProjectionStatus {
        let at = async || {
            let projections = self.projections.list().await.unwrap();
            projections.first().and_then(|status| status.failure.as_ref()?.offset)
        };
        eventually_eq("the projection stands still", LONG, Some(offset), at).await;
        self.status().await
    }

    pub(crate) fn metric(&self, line: &str) -> bool {
        self.broker.metrics_text().contains(line)
    }
}

pub(crate) async fn view(pool: &Pool) -> View {
    let text = "SELECT day, cents, orders, trail FROM revenue";
    let rows: Vec<(i64, i64, i64, i64)> = match pool {
        Pool::Postgres(pool) => sqlx::query_as(text).fetch_all(pool).await.unwrap(),
        Pool::Sqlite(pool) => sqlx::query_as(text).fetch_all(pool).await.unwrap(),
    };
    rows.into_iter().map(|(day, cents, orders, trail)| (day, (cents, orders, trail))).collect()
}

/// The view of these orders in their order.
pub(crate) fn of(numbers: impl IntoIterator<Item = i64>) -> View {
    let mut view = View::new();
    for number in numbers {
        let cents = placed(number).cents;
        let day = view.entry(number % DAYS);
        day.and_modify(|(sum, orders, trail)| {
            (*sum, *orders, *trail) = (*sum + cents, *orders + 1, (*trail * 31 + number) % 1_000_003);
        })
        .or_insert((cents, 1, number));
    }
    view
}
