//! A shop that takes orders, and a queue where its mails arrive.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use leveret::{Broker, Context, JobResult, PublishError, Worker, testing};
use leveret_email::SendEmail;
use leveret_harness::{eventually, shared_postgres};
use leveret_orders::{PlaceOrder, Shop, run, worker};
use leveret_sql::Outbox;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// An empty database, gone with the test.
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

/// The mails that came, by the ids of their jobs. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Mails(Arc<Mutex<BTreeMap<String, SendEmail>>>);

impl Mails {
    /// The worker of the queue `email`, which keeps what it is to send.
    pub(crate) fn worker(&self) -> Worker<Self> {
        Worker::new(self.clone()).handle(keep)
    }

    pub(crate) fn all(&self) -> BTreeMap<String, SendEmail> {
        self.0.lock().unwrap().clone()
    }
}

async fn keep(mail: SendEmail, ctx: Context<Mails>) -> JobResult {
    ctx.state().0.lock().unwrap().insert(ctx.job_id().to_owned(), mail);
    Ok(())
}

/// A shop in memory's broker, with all its workers.
pub(crate) struct Stage {
    pub(crate) shop: Shop,
    pub(crate) broker: Broker,
    pub(crate) mails: Mails,
    stop: CancellationToken,
    service: JoinHandle<()>,
    mailing: testing::Running,
}

impl Stage {
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

    /// How many orders have ended so.
    pub(crate) fn ended(&self, outcome: &str) -> u64 {
        let name = format!(r#"leveret_jobs_finished_total{{job="order.place",outcome="{outcome}",queue="orders"}} "#);
        let text = self.broker.metrics_text();
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    }

    /// Waits until all mails are out, and stops.
    pub(crate) async fn close(self) -> (Shop, Mails) {
        eventually("the outbox is empty", LONG, async || waiting(&self.shop).await == 0).await;
        testing::idle(&self.broker).await;
        self.stop.cancel();
        self.service.await.unwrap();
        self.mailing.stop().await.unwrap();
        (self.shop, self.mails)
    }
}

/// Publishes an order once its queue is there.
pub(crate) async fn place(broker: &Broker, id: &str, order: &PlaceOrder) {
    let publisher = broker.publisher();
    eventually("the queue is there", LONG, async || match publisher.publish(order).id(id).await {
        Err(PublishError::Unroutable { .. }) => false,
        published => published.is_ok(),
    })
    .await;
}

/// How many mails wait in the shop's outbox.
pub(crate) async fn waiting(shop: &Shop) -> u64 {
    let outbox = match shop {
        Shop::Postgres(pool) => Outbox::new(pool),
        Shop::Sqlite(pool) => Outbox::new(pool),
    };
    outbox.status().await.unwrap().pending
}

/// An order of these articles, for 5 euros each.
pub(crate) fn order(customer: &str, lines: &[(&str, u16)]) -> PlaceOrder {
    let line = |(sku, quantity): &(&str, u16)| serde_json::json!({"sku": sku, "quantity": quantity, "cents": 500});
    let lines: Vec<_> = lines.iter().map(line).collect();
    serde_json::from_value(serde_json::json!({"customer": customer, "lines": lines})).unwrap()
}
