//! A shop for tests, and a worker that gets the copies of the mails.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use leveret::{Broker, Context, JobResult, NewJob, PublishError, Subscription, Worker, testing};
use leveret_harness::{eventually, shared_postgres};
use leveret_orders::{OrderPlaced, PlaceOrder, Shop, run, worker};
use leveret_sql::Outbox;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// An empty database, deleted after the test.
pub(crate) struct Database {
    pub(crate) url: String,
    _folder: Option<TempDir>,
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("our shop.db").display());
        Self { url, _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        Self { url: shared_postgres().await.database().await, _folder: None }
    }
}

/// Received events by their ids. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Mails(Arc<Mutex<BTreeMap<String, OrderPlaced>>>);

impl Mails {
    /// Returns the worker of the subscription, which stores the events.
    pub(crate) fn worker(&self) -> Worker<Self> {
        Worker::new(self.clone()).subscribe(Subscription::new("order-mails"), keep)
    }

    pub(crate) fn all(&self) -> BTreeMap<String, OrderPlaced> {
        self.0.lock().unwrap().clone()
    }
}

async fn keep(order: OrderPlaced, ctx: Context<Mails>) -> JobResult {
    ctx.state().0.lock().unwrap().insert(ctx.job_id().to_string(), order);
    Ok(())
}

/// A shop on an in-memory broker, with all its workers.
pub(crate) struct TestShop {
    pub(crate) shop: Shop,
    pub(crate) broker: Broker,
    pub(crate) mails: Mails,
    stop: CancellationToken,
    service: JoinHandle<()>,
    mailing: testing::Running,
}

impl TestShop {
    pub(crate) async fn new(database: &Database, stock: &[(&str, u32)]) -> Self {
        let (broker, stop, mails) = (Broker::memory(), CancellationToken::new(), Mails::default());
        let shop = Shop::open(&database.url).await.unwrap();
        for (sku, quantity) in stock {
            shop.set_stock(sku, *quantity).await.unwrap();
        }
        let mailing = testing::start(mails.worker(), &broker).await.unwrap();
        let relay = shop.relay(&broker);
        let worker = worker(shop.clone(), relay.waker());
        let (on, stopped) = (broker.clone(), stop.clone());
        let service = tokio::spawn(async move { run(worker, relay, &on, stopped.cancelled_owned()).await.unwrap() });
        Self { shop, broker, mails, stop, service, mailing }
    }

    pub(crate) async fn place(&self, id: &str, order: &PlaceOrder) {
        place(&self.broker, id, order).await;
    }

    /// Returns the number of orders with this outcome.
    pub(crate) fn ended(&self, outcome: &str) -> u64 {
        self.finished("order.place", "orders", outcome)
    }

    /// Returns the number of events of the warehouse with this outcome.
    pub(crate) fn picked(&self, outcome: &str) -> u64 {
        self.finished("order.placed", "warehouse", outcome)
    }

    pub(crate) fn finished(&self, job: &str, queue: &str, outcome: &str) -> u64 {
        let name = format!(r#"leveret_jobs_finished_total{{job="{job}",outcome="{outcome}",queue="{queue}"}} "#);
        let text = self.broker.metrics_text();
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    }

    /// Stops after all events are emitted and handled.
    pub(crate) async fn close(self) -> (Shop, Mails) {
        eventually("the outbox is empty", LONG, async || waiting(&self.shop).await == 0).await;
        testing::idle(&self.broker).await;
        self.stop.cancel();
        self.service.await.unwrap();
        self.mailing.stop().await.unwrap();
        (self.shop, self.mails)
    }
}

/// Publishes an order when its queue exists.
pub(crate) async fn place(broker: &Broker, id: &str, order: &PlaceOrder) {
    publish(broker, NewJob::of(order).id(id)).await;
}

/// Publishes a job when its queue exists.
pub(crate) async fn publish(broker: &Broker, job: NewJob) {
    let publisher = broker.publisher();
    eventually("the queue is there", LONG, async || match publisher.publish(job.clone()).await {
        Err(PublishError::Unroutable { .. }) => false,
        published => published.is_ok(),
    })
    .await;
}

/// Returns the number of events in the outbox of the shop.
pub(crate) async fn waiting(shop: &Shop) -> u64 {
    let outbox = match shop {
        Shop::Postgres(pool) => Outbox::new(pool),
        Shop::Sqlite(pool) => Outbox::new(pool),
    };
    outbox.status().await.unwrap().pending
}

/// Returns an order of these articles, 5 euros each.
pub(crate) fn order(customer: &str, lines: &[(&str, u16)]) -> PlaceOrder {
    let line = |(sku, quantity): &(&str, u16)| serde_json::json!({"sku": sku, "quantity": quantity, "cents": 500});
    let lines: Vec<_> = lines.iter().map(line).collect();
    serde_json::from_value(serde_json::json!({"customer": customer, "lines": lines})).unwrap()
}
