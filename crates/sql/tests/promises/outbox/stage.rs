//! A database with an outbox, a queue, and relays between them.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use leveret::{Broker, Config, JobId, NewJob};
use leveret_harness::{
    RawClient, eventually, eventually_eq,
    lapin::{
        message::{BasicGetMessage, Delivery},
        options::{BasicConsumeOptions, QueueBindOptions},
        types::FieldTable,
    },
    shared_node, unique,
};
use leveret_sql::{Inbox, Outbox, Relay, Result};
use sqlx::{
    AssertSqlSafe, PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use tokio::{sync::oneshot, task::JoinHandle};

use leveret_harness::Database;

pub(crate) const LONG: Duration = Duration::from_secs(60);
const EXCHANGE: &str = "leveret.v1.jobs";

/// The pool of the application that enqueues.
#[derive(Clone)]
pub(crate) enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// Does the work of an application in one transaction.
#[macro_export]
macro_rules! in_transaction {
    ($pool:expr, |$tx:ident| $work:expr) => {
        match $pool {
            $crate::outbox::stage::Pool::Postgres(pool) => {
                let mut $tx = pool.begin().await.unwrap();
                let done = $work;
                $tx.commit().await.unwrap();
                done
            }
            $crate::outbox::stage::Pool::Sqlite(pool) => {
                let mut $tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
                let done = $work;
                $tx.commit().await.unwrap();
                done
            }
        }
    };
}

impl Pool {
    pub(crate) async fn open(url: &str) -> Self {
        if url.starts_with("postgres") {
            return Self::Postgres(PgPoolOptions::new().max_connections(5).connect(url).await.unwrap());
        }
        let options = SqliteConnectOptions::new()
            .filename(url.trim_start_matches("sqlite:"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(30));
        Self::Sqlite(SqlitePoolOptions::new().max_connections(5).connect_with(options).await.unwrap())
    }

    pub(crate) fn outbox(&self) -> Outbox {
        match self {
            Self::Postgres(pool) => Outbox::new(pool),
            Self::Sqlite(pool) => Outbox::new(pool),
        }
    }

    pub(crate) fn inbox(&self) -> Inbox {
        match self {
            Self::Postgres(pool) => Inbox::new(pool),
            Self::Sqlite(pool) => Inbox::new(pool),
        }
    }

    pub(crate) async fn enqueue(&self, job: NewJob) -> JobId {
        in_transaction!(self, |tx| Outbox::enqueue(&mut tx, job).await.unwrap())
    }

    pub(crate) async fn enqueue_all(&self, jobs: Vec<NewJob>) -> Vec<JobId> {
        in_transaction!(self, |tx| Outbox::enqueue_all(&mut tx, jobs).await.unwrap())
    }

    pub(crate) async fn enqueue_ordered(&self, order_key: &str, job: NewJob) -> JobId {
        in_transaction!(self, |tx| Outbox::enqueue_ordered(&mut tx, order_key, job).await.unwrap())
    }

    pub(crate) async fn enqueue_all_ordered(&self, jobs: Vec<(Option<String>, NewJob)>) -> Vec<JobId> {
        in_transaction!(self, |tx| Outbox::enqueue_all_ordered(&mut tx, jobs).await.unwrap())
    }

    pub(crate) async fn run(&self, sql: &str) {
        match self {
            Self::Postgres(pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
            Self::Sqlite(pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
        }
    }
}

pub(crate) struct Stage {
    pub(crate) pool: Pool,
    pub(crate) outbox: Outbox,
    pub(crate) queue: String,
    pub(crate) amqp: String,
    pub(crate) raw: RawClient,
    pub(crate) database: Database,
}

pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Running {
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.send(()).unwrap_or(());
        self.task.await.unwrap()
    }
}

pub(crate) fn broker(url: &str) -> Broker {
    let amqp_url = vec![url.to_owned()];
    let http_addr = ([127, 0, 0, 1], 0).into();
    Broker::amqp(Config { amqp_url, http_addr, publish_timeout: Duration::from_secs(10), ..Config::default() }).unwrap()
}

pub(crate) fn run(relay: Relay) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(relay.run(async move { drop(stopped.await) }));
    Running { stop, task }
}

impl Stage {
    pub(crate) async fn new(database: Database) -> Self {
        drop(tracing_subscriber::fmt().with_test_writer().with_env_filter("leveret=info,leveret_sql=info").try_init());
        let amqp = shared_node().await.url();
        let pool = Pool::open(&database.url).await;
        let outbox = Outbox::migrate(&pool.outbox()).await.unwrap();
        let queue = unique("outbox");
        let stage = Self { pool, outbox, queue, raw: RawClient::connect(&amqp).await.unwrap(), amqp, database };
        stage.declare(&stage.queue).await;
        stage
    }

    /// Declares a queue that publishes reach, as a worker does.
    pub(crate) async fn declare(&self, queue: &str) {
        // The first publish declares the exchanges.
        drop(broker(&self.amqp).publisher().publish_raw("x", unique("none"), "{}").await.unwrap_err());
        self.raw.declare_quorum(queue, FieldTable::default()).await.unwrap();
        for (exchange, key) in [(EXCHANGE, queue.to_owned()), ("leveret.v1.due", format!("#.{queue}"))] {
            let bind = QueueBindOptions::default();
            self.raw
                .channel()
                .queue_bind(queue.into(), exchange.into(), key.into(), bind, FieldTable::default())
                .await
                .unwrap();
        }
    }

    pub(crate) fn relay(&self) -> Relay {
        Relay::new(&self.outbox, &broker(&self.amqp))
    }

    /// Makes a job for the stage's queue.
    #[expect(clippy::needless_pass_by_value, reason = "numbers and texts at hand read better without a reference")]
    pub(crate) fn entry(&self, payload: impl ToString) -> NewJob {
        NewJob::raw("test.job", self.queue.clone(), payload.to_string())
    }

    pub(crate) async fn pending(&self) -> u64 {
        self.outbox.status().await.unwrap().pending
    }

    pub(crate) async fn drained(&self) {
        eventually_eq("the outbox is empty", LONG, 0, async || self.pending().await).await;
    }

    pub(crate) async fn depth(&self) -> u32 {
        self.raw.depth(&self.queue).await.unwrap().unwrap()
    }

    pub(crate) async fn next(&self) -> BasicGetMessage {
        let mut taken = None;
        eventually("a message comes", LONG, async || {
            taken = self.raw.take(&self.queue).await.unwrap();
            taken.is_some()
        })
        .await;
        taken.unwrap()
    }

    /// Takes `count` messages, and returns their ids and payloads in the order of the queue.
    pub(crate) async fn take(&self, count: usize) -> Vec<(String, String)> {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let channel = self.raw.channel();
        let mut consumer =
            channel.basic_consume(self.queue.as_str().into(), "".into(), options, FieldTable::default()).await.unwrap();
        let mut taken = Vec::new();
        while taken.len() < count {
            let next = tokio::time::timeout(LONG, consumer.next()).await;
            let next = next.unwrap_or_else(|_| panic!("only {} of {count} came", taken.len()));
            taken.push(id_and_payload(&next.unwrap().unwrap()));
        }
        channel.basic_cancel(consumer.tag(), Default::default()).await.unwrap();
        taken
    }
}

pub(crate) fn id_and_payload(delivery: &Delivery) -> (String, String) {
    let id = delivery.properties.message_id().as_ref().map_or("", |id| id.as_str()).to_owned();
    (id, String::from_utf8(delivery.data.to_vec()).unwrap())
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}
